SELECT CASE WHEN score > 1 THEN address ELSE 7 END AS x,
       CASE score WHEN tags THEN 1 END AS y
FROM STREAM(bronze.leads)
