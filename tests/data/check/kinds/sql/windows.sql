SELECT leadId, row_number() OVER (PARTITION BY nope ORDER BY score) AS n,
       lag(score, 'x') OVER (ORDER BY generatedAt) AS before
FROM STREAM(bronze.leads)
