-- Whom to call: leads without a sale for two days, as of the newest lead.
SELECT
  leads.lead_id,
  leads.product_code,
  leads.status,
  leads.score,
  leads.quote,
  leads.generated_at,
  leads.abandoned_at,
  leads.contact_id,
  contacts.given_name,
  contacts.family_name,
  contacts.email,
  accounts.customer_number
FROM silver.leads AS leads
CROSS JOIN (SELECT max(generated_at) AS at FROM silver.leads) AS newest
LEFT JOIN silver.contacts AS contacts ON contacts.contact_id = leads.contact_id
LEFT JOIN silver.accounts AS accounts ON accounts.account_id = leads.account_id
WHERE leads.status IN ('open', 'abandoned')
  AND leads.generated_at <= newest.at - INTERVAL '2 days'
  AND leads.consented
