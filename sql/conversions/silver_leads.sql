-- Each lead and what became of it. What ends a lead may be told before the lead itself.
WITH told AS (
  SELECT
    lead_id, contact_id, account_id, product_code, channel, prospect['town'] AS town,
    prospect['birth_year'] AS birth_year, score, quote, consented, generated_at,
    reason, failed_at,
    CAST(NULL AS TIMESTAMP) AS abandoned_at,
    CAST(NULL AS VARCHAR) AS sale_id, CAST(NULL AS TIMESTAMP) AS sold_at
  FROM STREAM(bronze.leads)
  UNION ALL
  SELECT lead_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, abandoned_at, NULL, NULL
  FROM STREAM(bronze.contacts)
  WHERE _event_type = 'contact.abandoned_quote'
  UNION ALL
  SELECT lead_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, sale_id, confirmed_at
  FROM STREAM(silver.sales)
)
SELECT
  lead_id,
  max(contact_id) AS contact_id,
  max(account_id) AS account_id,
  max(product_code) AS product_code,
  max(channel) AS channel,
  max(town) AS town,
  max(birth_year) AS birth_year,
  max(score) AS score,
  max(quote) AS quote,
  bool_or(consented) AS consented,
  max(generated_at) AS generated_at,
  CASE
    WHEN max(sold_at) IS NOT NULL THEN 'converted'
    WHEN max(failed_at) IS NOT NULL THEN 'failed'
    WHEN max(abandoned_at) IS NOT NULL THEN 'abandoned'
    ELSE 'open'
  END AS status,
  max(reason) AS failure_reason,
  max(failed_at) AS failed_at,
  max(abandoned_at) AS abandoned_at,
  max(sale_id) AS sale_id,
  max(sold_at) AS sold_at
FROM told
GROUP BY lead_id
