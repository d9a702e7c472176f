WITH good AS (SELECT leadId, scored AS s FROM STREAM(bronze.leads) WHERE quotes > tags),
     better AS (SELECT leadId, upper(s, 2) AS s FROM good)
SELECT better.leadId, better.t FROM better
