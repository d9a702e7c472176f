-- first
INSERT INTO silver.leads SELECT * FROM STREAM(bronze.leads)
