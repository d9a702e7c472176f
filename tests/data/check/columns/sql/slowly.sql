SELECT leadId, score AS valid_from, _enqueued_at FROM STREAM(bronze.leads)
