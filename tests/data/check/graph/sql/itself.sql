SELECT leadId FROM silver.itself__quarantine
