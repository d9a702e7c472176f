SELECT productCode, count(*) AS n
FROM STREAM(bronze.leads)
GROUP BY productCode
HAVING n > 1 AND sum(tags) > 2
