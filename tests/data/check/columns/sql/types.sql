SELECT NULL AS nothing,
       count(*),
       productCode AS p, address.city AS P,
       CAST('10:00' AS TIME) AS at_time,
       INTERVAL '1 day' AS a_day,
       tags
FROM STREAM(bronze.leads) GROUP BY productCode, address.city, tags
