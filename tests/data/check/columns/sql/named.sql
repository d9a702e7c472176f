SELECT leadId AS lead_id, 'x' AS status, score, tags, _enqueued_at FROM STREAM(bronze.leads)
