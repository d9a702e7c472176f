SELECT 'abc FROM STREAM(bronze.leads)
