SELECT leadId FROM silver.c
