SELECT l.leadID, scor, l.nothing_like_it
FROM STREAM(bronze.leads) l
