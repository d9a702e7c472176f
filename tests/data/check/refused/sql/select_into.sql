SELECT * INTO silver.x FROM STREAM(bronze.leads)
