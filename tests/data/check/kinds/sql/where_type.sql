SELECT leadId
FROM STREAM(bronze.leads)
WHERE score > 0.5 AND generatedAt = TRUE AND address
