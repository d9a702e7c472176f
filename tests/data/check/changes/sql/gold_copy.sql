SELECT * FROM STREAM(silver.leads) WHERE _change_type <> 'update_preimage'
