-- What was sold of a product in a month, in euro a year.
SELECT
  product_code,
  CAST(date_trunc('month', confirmed_at) AS DATE) AS month,
  count(*) AS sales,
  CAST(sum(premium) AS DECIMAL(18, 2)) AS premiums,
  CAST(sum(commission) AS DECIMAL(18, 2)) AS commissions,
  min(confirmed_at) AS first_sale_at,
  max(confirmed_at) AS last_sale_at
FROM STREAM(silver.sales)
GROUP BY product_code, date_trunc('month', confirmed_at)
