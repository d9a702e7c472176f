SELECT leadId,
       productCode
FROM STREAM(silver.leads)
