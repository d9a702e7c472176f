-- Each person with all that happened to them, in whatever order it was told.
WITH happened AS (
  -- What was sent twice counts once.
  SELECT DISTINCT
    _event_type, contact_id, account_id, role, person, email, activated_at, deactivated_at,
    lead_id, policy_number, premium, _event_time AS happened_at
  FROM STREAM(bronze.contacts)
)
SELECT
  contact_id,
  max(account_id) AS account_id,
  max(role) AS role,
  max(person['given_name']) AS given_name,
  max(person['family_name']) AS family_name,
  max(person['born_on']) AS born_on,
  max(email) AS email,
  count(*) FILTER (WHERE _event_type = 'contact.abandoned_quote') AS abandoned_quotes,
  count(*) FILTER (WHERE _event_type = 'contact.purchased') AS purchases,
  CAST(coalesce(sum(premium) FILTER (WHERE _event_type = 'contact.purchased'), 0) AS DECIMAL(18, 2)) AS premiums,
  count(*) FILTER (WHERE _event_type = 'contact.product_expired') AS expired_policies,
  CASE
    WHEN max(deactivated_at) > max(activated_at) THEN 'deactivated'
    WHEN count(*) FILTER (WHERE _event_type = 'contact.purchased') > 0 THEN 'customer'
    ELSE 'prospect'
  END AS status,
  max(activated_at) AS activated_at,
  max(deactivated_at) AS deactivated_at,
  max(happened_at) AS last_seen_at
FROM happened
GROUP BY contact_id
