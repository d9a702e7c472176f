SELECT * FROM leads, lake.bronze.leads, Bronze.Leads, "bronze"."leads@v3", information_schema.tables, __stream_bronze.leads
