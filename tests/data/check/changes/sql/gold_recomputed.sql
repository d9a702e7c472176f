SELECT productCode, count(*) AS leads FROM STREAM(silver.leads) WHERE _change_type <> 'delete' GROUP BY productCode
