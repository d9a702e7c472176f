SELECT * FROM STREAM(silver.leads)
