SELECT leadId, count(*) AS times FROM STREAM(gold.reserved) GROUP BY leadId
