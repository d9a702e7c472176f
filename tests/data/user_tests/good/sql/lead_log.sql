SELECT lead_id, product_code, _change_type AS change FROM STREAM(silver.leads)
