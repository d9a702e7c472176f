SELECT leadId FROM STREAM(bronze.leads)
