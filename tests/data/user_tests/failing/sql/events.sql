SELECT leadId AS lead_id, productCode AS product_code, tags[1] AS first_tag FROM STREAM(bronze.leads)
