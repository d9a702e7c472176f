SELECT product_code, count(*) AS leads FROM STREAM(silver.leads) GROUP BY product_code
