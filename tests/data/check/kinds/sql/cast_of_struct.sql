SELECT CAST(address AS INT) AS a, leadId FROM STREAM(bronze.leads)
