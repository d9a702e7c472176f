COPY bronze.leads TO '/tmp/leads.parquet'
