SELECT product_code, count(*) AS leads, avg(score) AS score FROM silver.leads GROUP BY product_code
