SELECT leadId FROM STREAM(bronze.leads) l
WHERE EXISTS (SELECT 1 FROM bronze.leads o WHERE o.leadId = l.leadId AND o.nope = 1)
  AND score IN (SELECT address FROM bronze.leads)
