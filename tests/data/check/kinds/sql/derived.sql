SELECT d.id, d.nope
FROM (SELECT leadId AS id, score + tags AS bad FROM STREAM(bronze.leads)) d
