SELECT l.address.town AS town, address['street'] AS street FROM STREAM(bronze.leads) l
