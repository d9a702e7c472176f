SELECT upper(leadId, 1) AS a, sum(leadId) AS b, date_trunc('day') AS c
FROM STREAM(bronze.leads)
