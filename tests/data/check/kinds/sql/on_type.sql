SELECT a.leadId
FROM STREAM(bronze.leads) a JOIN bronze.leads b ON a.leadId = b.leadId AND a.address = b.score
