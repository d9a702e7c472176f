SELECT leadId,
FROM STREAM(bronze.leads)
WHERE score >
