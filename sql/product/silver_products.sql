-- Each product as it is now. A version that comes late is older by its number, whenever it came.
SELECT
  product_code,
  split_part(product_code, '-', 1) AS line,
  version,
  status,
  title,
  base_premium,
  cardinality(covers) AS covers,
  attributes['tariff'] AS tariff,
  valid_from AS sold_from,
  valid_to AS sold_to,
  updated_at
FROM STREAM(bronze.products)
WHERE _event_type = 'product.updated'
