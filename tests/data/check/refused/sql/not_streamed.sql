SELECT leadId FROM bronze.leads
