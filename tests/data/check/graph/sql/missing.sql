SELECT leadId FROM bronze.lead JOIN other.thing USING (leadId) JOIN bronze.leads__quarantine USING (leadId)
