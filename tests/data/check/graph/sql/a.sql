SELECT leadId FROM STREAM(bronze.leads) JOIN silver.b USING (leadId)
