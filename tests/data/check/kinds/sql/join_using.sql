SELECT leadId FROM STREAM(bronze.leads) a JOIN bronze.leads b USING (leadid)
