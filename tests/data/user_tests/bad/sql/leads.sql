SELECT leadId AS lead_id, productCode AS product_code, score, premium, address.city AS city, _enqueued_at, _sequence_number
FROM STREAM(bronze.leads)
