SELECT leadId, productCode AS p, score AS p FROM STREAM(bronze.leads)
