SELECT leadId FROM STREAM(silver.replaced)
