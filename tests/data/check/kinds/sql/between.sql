SELECT leadId
FROM STREAM(bronze.leads)
WHERE score BETWEEN address
  AND 7
