-- Each sale once, however often it was confirmed.
SELECT
  sale_id,
  file_id,
  lead_id,
  contact_id,
  account_id,
  product_code,
  premium,
  payment,
  commission['percent'] AS commission_percent,
  commission['amount'] AS commission,
  cardinality(riders) AS riders,
  starts_on,
  confirmed_at,
  _event_source,
  _event_id
FROM STREAM(bronze.sales)
WHERE _event_type = 'sale.confirmed'
