SELECT STREAM(bronze.leads) FROM STREAM('bronze.leads'), STREAM(leads), STREAM(), STREAM(a.b.c), STREAM(bronze.a, bronze.b), stream,
  LATERAL STREAM(bronze.leads)
