SELECT *, pg_read_file('/etc/passwd') AS p
FROM read_csv('/etc/passwd'), read_parquet('x'), STREAM(bronze.leads), magic(1), 'file.csv'
