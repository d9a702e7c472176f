SELECT leadId
FROM bronze.leads JOIN silver.a USING (leadId)
