SELECT leadId, productCode, _sequence_number FROM STREAM(bronze.leads)
