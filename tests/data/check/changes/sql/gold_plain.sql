SELECT leadId FROM STREAM(bronze.leads) WHERE _change_type = 'insert'
