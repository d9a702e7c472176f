SELECT l.*, row_number() OVER (ORDER BY leadId) AS n, now() AS t, CAST('2026-01-01' AS TIMESTAMP) AS u,
  arrow_cast(score, 'Float16') AS f, CAST(NULL AS VARCHAR) AS v, named_struct('a', leadId, 'b', [1, 2]) AS s, to_timestamp(quotes) AS w,
  gen.value AS g
FROM STREAM(bronze.leads) l CROSS JOIN generate_series(1, 3) AS gen
