SELECT CAST('seven' AS INT) AS a, TIMESTAMP 'yesterday' AS b, leadId
FROM STREAM(bronze.leads)
