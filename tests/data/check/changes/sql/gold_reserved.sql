SELECT leadId, _change_type, _commit_version FROM STREAM(silver.leads) WHERE _change_type <> 'update_preimage'
