-- What a lead is worth.
SELECT l.leadId AS lead_id,
       l.productCod AS product_code,
       uper(l.address.city) AS city,
       l.score * 100 AS percent,
       l.quotes AS quotes,
       _enqueued_at, _sequence_number
FROM STREAM(bronze.leads) AS l
WHERE l.generatedAt > 17 + l.leadId
