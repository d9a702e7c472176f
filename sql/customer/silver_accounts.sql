-- The accounts that can sign in. One that was deactivated leaves the table, and comes back when it is activated again.
SELECT
  account_id,
  customer_number,
  broker_id,
  plan,
  address['street'] AS street,
  address['house_number'] AS house_number,
  address['postcode'] AS postcode,
  address['town'] AS town,
  preferences['language'] AS language,
  cardinality(policies) AS policies,
  CASE _event_type WHEN 'account.activated' THEN 'active' ELSE 'deactivated' END AS status,
  coalesce(activated_at, deactivated_at) AS changed_at
FROM STREAM(bronze.accounts)
WHERE _event_type IN ('account.activated', 'account.deactivated')
