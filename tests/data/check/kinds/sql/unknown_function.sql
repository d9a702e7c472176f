SELECT uper(leadId) AS id FROM STREAM(bronze.leads)
