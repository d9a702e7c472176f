-- What became of the leads of a day, by product.
SELECT
  leads.product_code,
  CAST(leads.generated_at AS DATE) AS day,
  max(products.title) AS title,
  count(*) AS leads,
  count(leads.quote) AS quoted,
  count(*) FILTER (WHERE leads.status = 'open') AS open,
  count(*) FILTER (WHERE leads.status = 'abandoned') AS abandoned,
  count(*) FILTER (WHERE leads.status = 'failed') AS failed,
  count(*) FILTER (WHERE leads.status = 'converted') AS converted,
  CAST(count(*) FILTER (WHERE leads.status = 'converted') AS DOUBLE) / count(*) AS conversion_rate
FROM silver.leads AS leads
LEFT JOIN silver.products AS products ON products.product_code = leads.product_code
GROUP BY leads.product_code, CAST(leads.generated_at AS DATE)
