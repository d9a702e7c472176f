SELECT * FROM STREAM(bronze.leads)
