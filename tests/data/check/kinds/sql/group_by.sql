SELECT productCode, leadId, count(*) AS n
FROM STREAM(bronze.leads) GROUP BY productCode
