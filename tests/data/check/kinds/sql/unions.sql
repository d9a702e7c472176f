SELECT leadId, score FROM STREAM(bronze.leads)
UNION ALL
SELECT leadId FROM bronze.leads
