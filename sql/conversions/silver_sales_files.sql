-- Each broker's file beside the sales that were confirmed of it, before or after it came.
WITH told AS (
  -- What was sent twice counts once.
  SELECT DISTINCT file_id, broker_id, file_name, format, received_at, sales, total, sale_id, premium
  FROM STREAM(bronze.sales)
)
SELECT
  file_id,
  max(broker_id) AS broker_id,
  max(file_name) AS file_name,
  max(format) AS format,
  max(received_at) AS received_at,
  max(sales) AS sales_counted,
  max(total) AS total_counted,
  count(sale_id) AS sales_confirmed,
  CAST(coalesce(sum(premium), 0) AS DECIMAL(18, 2)) AS total_confirmed
FROM told
GROUP BY file_id
