SELECT leadId FROM STREAM(bronze.leads) WHERE score > $1 AND leadId = @@version
