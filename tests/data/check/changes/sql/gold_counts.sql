SELECT productCode, count(*) AS leads FROM STREAM(silver.leads) GROUP BY productCode
