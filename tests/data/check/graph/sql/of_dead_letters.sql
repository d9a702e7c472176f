SELECT _reason FROM STREAM(bronze.leads__dead_letters)
