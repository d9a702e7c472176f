SELECT * FROM STREAM(bronze.leads);
DROP TABLE bronze.leads;
