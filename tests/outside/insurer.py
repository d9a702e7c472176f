"""What silver and gold of the demo's insurer must hold: computed from bronze by DuckDB, and much of it by Polars,
without a look at the SQL that Sluicebox runs.
"""

import os

import polars

from machine import audit, check, same
from machine import sluice as binary
from readers import duckdb_connection

# Of each table its columns and its keys.
TABLES = {
    "silver.products": (
        ["product_code", "line", "version", "status", "title", "base_premium", "covers", "tariff", "sold_from", "sold_to", "updated_at"],
        ["product_code"],
    ),
    "silver.products_history": (
        ["product_code", "version", "status", "base_premium", "tariff", "updated_at", "valid_from", "valid_to", "is_current"],
        ["product_code", "version"],
    ),
    "silver.accounts": (
        ["account_id", "customer_number", "broker_id", "plan", "street", "house_number", "postcode", "town", "language", "policies",
         "status", "changed_at"],
        ["account_id"],
    ),
    "silver.contacts": (
        ["contact_id", "account_id", "role", "given_name", "family_name", "born_on", "email", "abandoned_quotes", "purchases",
         "premiums", "expired_policies", "status", "activated_at", "deactivated_at", "last_seen_at"],
        ["contact_id"],
    ),
    "silver.sales": (
        ["sale_id", "file_id", "lead_id", "contact_id", "account_id", "product_code", "premium", "payment", "commission_percent",
         "commission", "riders", "starts_on", "confirmed_at", "_event_source", "_event_id"],
        ["sale_id"],
    ),
    "silver.sales_files": (
        ["file_id", "broker_id", "file_name", "format", "received_at", "sales_counted", "total_counted", "sales_confirmed",
         "total_confirmed"],
        ["file_id"],
    ),
    "silver.leads": (
        ["lead_id", "contact_id", "account_id", "product_code", "channel", "town", "birth_year", "score", "quote", "consented",
         "generated_at", "status", "failure_reason", "failed_at", "abandoned_at", "sale_id", "sold_at"],
        ["lead_id"],
    ),
    "gold.conversion_funnel": (
        ["product_code", "day", "title", "leads", "quoted", "open", "abandoned", "failed", "converted", "conversion_rate"],
        ["product_code", "day"],
    ),
    "gold.abandoned_leads": (
        ["lead_id", "product_code", "status", "score", "quote", "generated_at", "abandoned_at", "contact_id", "given_name",
         "family_name", "email", "customer_number"],
        ["lead_id"],
    ),
    "gold.revenue_by_product": (
        ["product_code", "month", "sales", "premiums", "commissions", "first_sale_at", "last_sale_at"],
        ["product_code", "month"],
    ),
}

# One view for each table, made in this order. `once` has each event once, however often it was sent.
VIEWS = {
    "once_products": "SELECT DISTINCT ON (_event_id) * FROM bronze_products WHERE _event_type = 'product.updated'",
    "once_accounts": "SELECT DISTINCT ON (_event_id) * FROM bronze_accounts",
    "once_contacts": "SELECT DISTINCT ON (_event_id) * FROM bronze_contacts",
    "once_leads": "SELECT DISTINCT ON (_event_id) * FROM bronze_leads",
    "once_sales": "SELECT DISTINCT ON (_event_id) * FROM bronze_sales",
    "good_products": """
        SELECT *, attributes['tariff'] AS tariff FROM once_products WHERE base_premium > 0
    """,
    "silver_products": """
        SELECT product_code, regexp_extract(product_code, '^[a-z]+') AS line, version, status, title, base_premium,
               len(covers) AS covers, tariff, valid_from AS sold_from, valid_to AS sold_to, updated_at
        FROM good_products QUALIFY row_number() OVER (PARTITION BY product_code ORDER BY version DESC) = 1
    """,
    "silver_products_history": """
        SELECT product_code, version, status, base_premium, tariff, updated_at, updated_at AS valid_from,
               lead(updated_at) OVER following AS valid_to, lead(updated_at) OVER following IS NULL AS is_current
        FROM good_products WINDOW following AS (PARTITION BY product_code ORDER BY updated_at, version)
    """,
    "last_of_accounts": """
        SELECT account_id, arg_max(_event_id, coalesce(activated_at, deactivated_at)) AS _event_id
        FROM once_accounts WHERE address IS NULL OR address.house_number > 0 GROUP BY account_id
    """,
    "silver_accounts": """
        SELECT account_id, customer_number, broker_id, plan, address.street AS street, address.house_number AS house_number,
               address.postcode AS postcode, address.town AS town, language, len(policies) AS policies,
               'active' AS status, activated_at AS changed_at
        FROM (SELECT *, preferences['language'] AS language FROM once_accounts)
        SEMI JOIN last_of_accounts USING (account_id, _event_id)
        WHERE _event_type = 'account.activated'
    """,
    "silver_contacts": """
        SELECT known.contact_id, known.account_id, known.role, known.person.given_name AS given_name,
               known.person.family_name AS family_name, known.person.born_on AS born_on, known.email,
               (SELECT count(*) FROM once_contacts q WHERE q._event_type = 'contact.abandoned_quote' AND q.contact_id = known.contact_id)
                 AS abandoned_quotes,
               coalesce(bought.purchases, 0) AS purchases,
               coalesce(bought.premiums, 0)::DECIMAL(18, 2) AS premiums,
               (SELECT count(*) FROM once_contacts x WHERE x._event_type = 'contact.product_expired' AND x.contact_id = known.contact_id)
                 AS expired_policies,
               CASE WHEN gone.deactivated_at > known.activated_at THEN 'deactivated'
                    WHEN bought.purchases > 0 THEN 'customer' ELSE 'prospect' END AS status,
               known.activated_at, gone.deactivated_at, seen.last_seen_at
        FROM once_contacts known
        LEFT JOIN (SELECT contact_id, count(*) AS purchases, sum(premium) AS premiums FROM once_contacts
                   WHERE _event_type = 'contact.purchased' GROUP BY contact_id) bought USING (contact_id)
        LEFT JOIN (SELECT contact_id, deactivated_at FROM once_contacts
                   WHERE _event_type = 'contact.deactivated') gone USING (contact_id)
        JOIN (SELECT contact_id, max(_event_time) AS last_seen_at FROM once_contacts GROUP BY contact_id) seen USING (contact_id)
        WHERE known._event_type = 'contact.activated'
    """,
    "silver_sales": """
        SELECT sale_id, file_id, lead_id, contact_id, account_id, product_code, premium, payment,
               commission.percent AS commission_percent, commission.amount AS commission, len(riders) AS riders, starts_on,
               confirmed_at, _event_source, _event_id
        FROM once_sales WHERE _event_type = 'sale.confirmed' AND premium > 0
    """,
    "silver_sales_files": """
        WITH files AS (SELECT * FROM once_sales WHERE _event_type = 'sales_file.received'),
             confirmed AS (SELECT file_id, count(*) AS n, sum(premium) AS premiums FROM once_sales
                           WHERE _event_type = 'sale.confirmed' GROUP BY file_id)
        SELECT coalesce(files.file_id, confirmed.file_id) AS file_id, broker_id, file_name, format, received_at,
               sales AS sales_counted, total AS total_counted, coalesce(n, 0) AS sales_confirmed,
               coalesce(premiums, 0)::DECIMAL(18, 2) AS total_confirmed
        FROM files FULL JOIN confirmed ON files.file_id = confirmed.file_id
    """,
    "silver_leads": """
        SELECT asked.lead_id, asked.contact_id, asked.account_id, asked.product_code, asked.channel, asked.prospect.town AS town,
               asked.prospect.birth_year AS birth_year, asked.score, asked.quote, asked.consented, asked.generated_at,
               CASE WHEN sold.sale_id IS NOT NULL THEN 'converted' WHEN failed.lead_id IS NOT NULL THEN 'failed'
                    WHEN quoted.lead_id IS NOT NULL THEN 'abandoned' ELSE 'open' END AS status,
               failed.reason AS failure_reason, failed.failed_at, quoted.abandoned_at, sold.sale_id, sold.confirmed_at AS sold_at
        FROM once_leads asked
        LEFT JOIN (SELECT * FROM once_leads WHERE _event_type = 'lead.failed') failed ON failed.lead_id = asked.lead_id
        LEFT JOIN (SELECT * FROM once_contacts WHERE _event_type = 'contact.abandoned_quote') quoted ON quoted.lead_id = asked.lead_id
        LEFT JOIN silver_sales sold ON sold.lead_id = asked.lead_id
        WHERE asked._event_type = 'lead.generated' AND asked.score >= 0 AND asked.score <= 1
    """,
    "gold_conversion_funnel": """
        SELECT l.product_code, l.generated_at::DATE AS day, any_value(p.title) AS title, count(*) AS leads, count(l.quote) AS quoted,
               sum((l.status = 'open')::INT) AS open, sum((l.status = 'abandoned')::INT) AS abandoned,
               sum((l.status = 'failed')::INT) AS failed, sum((l.status = 'converted')::INT) AS converted,
               sum((l.status = 'converted')::INT)::DOUBLE / count(*)::DOUBLE AS conversion_rate
        FROM silver_leads l LEFT JOIN silver_products p USING (product_code) GROUP BY ALL
    """,
    "gold_abandoned_leads": """
        SELECT l.lead_id, l.product_code, l.status, l.score, l.quote, l.generated_at, l.abandoned_at, l.contact_id,
               c.given_name, c.family_name, c.email, a.customer_number
        FROM silver_leads l
        LEFT JOIN silver_contacts c USING (contact_id)
        LEFT JOIN silver_accounts a ON a.account_id = l.account_id
        WHERE l.sale_id IS NULL AND l.failed_at IS NULL AND l.consented
          AND l.generated_at + INTERVAL 48 HOUR <= (SELECT max(generated_at) FROM silver_leads)
          AND (c.email IS NOT NULL OR a.customer_number IS NOT NULL)
    """,
    "gold_revenue_by_product": """
        SELECT product_code, make_date(year(confirmed_at), month(confirmed_at), 1) AS month, count(*) AS sales,
               sum(premium)::DECIMAL(18, 2) AS premiums, sum(commission)::DECIMAL(18, 2) AS commissions,
               min(confirmed_at) AS first_sale_at, max(confirmed_at) AS last_sale_at
        FROM silver_sales GROUP BY ALL
    """,
}


def location(lake, table):
    return str(lake / table.replace(".", "/"))


def expected_by_duckdb(connection, lake):
    """Each table's rows as Arrow, from bronze alone."""
    for hub in ("products", "accounts", "contacts", "leads", "sales"):
        connection.execute(f"CREATE TABLE bronze_{hub} AS SELECT * FROM delta_scan('{location(lake, f'bronze.{hub}')}')")
    for name, sql in VIEWS.items():
        connection.execute(f"CREATE TABLE {name} AS {sql}")
    return {
        table: connection.execute(f"SELECT {listed(columns)} FROM {table.replace('.', '_')}").fetch_arrow_table()
        for table, (columns, _) in TABLES.items()
    }


def listed(columns):
    return ", ".join(f'"{column}"' for column in columns)


def expected_by_polars(lake):
    """Some of the tables by Polars, from bronze alone."""
    col = polars.col

    def once(hub):
        return polars.scan_delta(location(lake, f"bronze.{hub}")).unique("_event_id", keep="any")

    good = once("products").filter(col("base_premium") > 0)
    products = good.sort("version").group_by("product_code").last()
    sales = once("sales").filter(col("_event_type") == "sale.confirmed", col("premium") > 0)
    leads = once("leads")
    generated = leads.filter(col("_event_type") == "lead.generated", col("score").is_between(0, 1))
    failed = leads.filter(col("_event_type") == "lead.failed").select("lead_id", failure=col("failed_at"))
    quotes = once("contacts").filter(col("_event_type") == "contact.abandoned_quote").select("lead_id", abandoned=col("abandoned_at"))
    fates = (
        generated.select("lead_id", "product_code", "quote", "generated_at")
        .join(sales.select("lead_id", "sale_id"), on="lead_id", how="left")
        .join(failed, on="lead_id", how="left")
        .join(quotes, on="lead_id", how="left")
    )
    is_sold, is_failed = col("sale_id").is_not_null(), col("failure").is_not_null()
    is_abandoned = col("abandoned").is_not_null()
    funnel = (
        fates.group_by("product_code", col("generated_at").dt.date().alias("day"))
        .agg(
            leads=polars.len(),
            quoted=col("quote").count(),
            open=(~is_sold & ~is_failed & ~is_abandoned).sum(),
            abandoned=(~is_sold & ~is_failed & is_abandoned).sum(),
            failed=(~is_sold & is_failed).sum(),
            converted=is_sold.sum(),
        )
        .join(products.select("product_code", "title"), on="product_code", how="left")
        .with_columns(conversion_rate=col("converted").cast(polars.Float64) / col("leads").cast(polars.Float64))
    )
    revenue = sales.group_by("product_code", col("confirmed_at").dt.month_start().dt.date().alias("month")).agg(
        sales=polars.len(),
        premiums=col("premium").sum(),
        commissions=col("commission").struct.field("amount").sum(),
        first_sale_at=col("confirmed_at").min(),
        last_sale_at=col("confirmed_at").max(),
    )
    frames = {"gold.conversion_funnel": funnel, "gold.revenue_by_product": revenue}
    return {table: frame.select(TABLES[table][0]).collect().to_arrow() for table, frame in frames.items()}


def read_by_each(lake, table, columns):
    """The table's rows as Arrow, by both readers."""
    sql = f"SELECT {listed(columns)} FROM delta_scan('{location(lake, table)}')"
    yield "DuckDB", duckdb_connection().execute(sql).fetch_arrow_table()
    yield "Polars", polars.scan_delta(location(lake, table)).select(columns).collect().to_arrow()


def rows(arrow, columns):
    """Plain tuples in the order of the columns: times in UTC, whole numbers of whatever width."""
    import datetime

    def plain(value):
        if isinstance(value, datetime.datetime):
            return value.astimezone(datetime.timezone.utc)
        return value

    return [tuple(plain(row[column]) for column in columns) for row in arrow.to_pylist()]


def compare(what, columns, keys, found, expected):
    at = [columns.index(key) for key in keys]

    def by_key(rows):
        return {tuple(row[place] for place in at): row for row in rows}

    found_by_key, expected_by_key = by_key(found), by_key(expected)
    same(len(expected_by_key), len(expected), f"keys that are expected of {what}")
    missing = sorted(expected_by_key.keys() - found_by_key.keys(), key=str)
    check(not missing, f"{what} lacks {len(missing)} of {len(expected)} rows, {missing[:3]} among them")
    foreign = sorted(found_by_key.keys() - expected_by_key.keys(), key=str)
    check(not foreign, f"{what} has {len(foreign)} rows too many, {foreign[:3]} among them")
    same(len(found), len(found_by_key), f"rows of {what}, each key once")
    for key, row in expected_by_key.items():
        for column, is_there, should_be in zip(columns, found_by_key[key], row, strict=True):
            same(is_there, should_be, f"`{column}` of {key} in {what}")


def sluice(project):
    return [binary(), "--project", str(project)]


def environment(emulator):
    return os.environ | {
        "EVENTHUBS_CONNECTION_STRING": emulator.connection_string,
        "SCHEMA_REGISTRY_ENDPOINT": emulator.schema_registry,
    }


def audit_all(project, env):
    for hub in ("products", "accounts", "contacts", "leads", "sales"):
        proof = audit(project, f"bronze.{hub}", env=env)
        check(proof["complete"], f"bronze.{hub} is complete")
