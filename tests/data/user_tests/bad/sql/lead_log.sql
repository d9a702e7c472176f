SELECT lead_id, _change_type AS change FROM STREAM(silver.leads)
