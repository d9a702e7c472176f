SELECT leadId,
       score + address AS x,
       leadId + tags AS y
FROM STREAM(bronze.leads)
