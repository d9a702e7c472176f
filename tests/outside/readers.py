"""Three readers of Delta tables that nobody here wrote, giving rows as plain Python values."""

import datetime
import importlib.util
import pathlib

import deltalake
import duckdb
import polars

READERS = ("deltalake", "polars", "duckdb")


def plain(value, maps=False):
    """The same value whatever reader it came from: maps as dicts, times in UTC."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if maps and all(isinstance(item, dict) and set(item) == {"key", "value"} for item in value):
            return {item["key"]: plain(item["value"]) for item in value}
        if maps and all(isinstance(item, tuple) and len(item) == 2 for item in value):
            return {key: plain(item) for key, item in value}
        return [plain(item) for item in value]
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.timezone.utc)
    return value


def rows(arrow, maps):
    """`maps` names the columns of type map: an empty one can't be told from an empty list."""
    return [
        {name: plain(value, maps=name in maps) for name, value in row.items()}
        for row in arrow.to_pylist()
    ]


def duckdb_connection():
    """DuckDB with the Delta extension of the package, since none may be downloaded."""
    package = importlib.util.find_spec("duckdb_ext")
    [extension] = pathlib.Path(next(iter(package.submodule_search_locations))).rglob("delta.duckdb_extension")
    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    connection.execute(f"LOAD '{extension}'")
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def read(reader, table, columns, maps=(), storage_options=None):
    """The rows of a table, of these columns, in no order."""
    if reader == "deltalake":
        arrow = deltalake.DeltaTable(table, storage_options=storage_options).to_pyarrow_table(columns=list(columns))
    elif reader == "polars":
        arrow = polars.scan_delta(table, storage_options=storage_options).select(columns).collect().to_arrow()
    else:
        listed = ", ".join(f'"{column}"' for column in columns)
        connection = duckdb_connection()
        arrow = connection.execute(f"SELECT {listed} FROM delta_scan('{table}')").fetch_arrow_table()
    return rows(arrow, maps)


def mirror(azurite, container, prefix, into):
    """Copies blobs to a folder, byte by byte: DuckDB's Azure extension can't be had without a download."""
    from azure.storage.blob import ContainerClient

    from machine import AZURITE_KEY

    with ContainerClient(azurite.endpoint, container, credential=AZURITE_KEY) as client:
        for blob in client.list_blobs(name_starts_with=prefix):
            path = into / blob.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(client.download_blob(blob.name).readall())
    return into / prefix
