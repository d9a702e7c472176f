-- Each product as it was at any time.
SELECT
  product_code,
  version,
  status,
  base_premium,
  attributes['tariff'] AS tariff,
  updated_at
FROM STREAM(bronze.products)
WHERE _event_type = 'product.updated'
