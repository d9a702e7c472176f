SELECT l.leadId
FROM STREAM(silver.leads) l
JOIN STREAM(gold.counts) c ON c.productCode = l.productCode
WHERE l._change_type = 'insert'
