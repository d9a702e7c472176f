SELECT leadId FROM STREAM(bronze.leads) ORDER BY nope
