"""Every table of a lake, read by Spark with Delta and by DuckDB: the same rows, value by value.

    spark.py LAKE JARS      by tests/interop/run, which installs what it needs
"""

import collections
import datetime
import importlib.metadata
import importlib.util
import pathlib
import sys
import time

import delta
import duckdb
from pyspark.sql import Row, SparkSession


def spark_session(jars):
    builder = (
        SparkSession.builder.appName("sluicebox interop")
        .master("local[2]")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.jars.ivy", str(jars))
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.databricks.delta.snapshotPartitions", "2")
        .config("spark.ui.showConsoleProgress", "false")
    )
    session = delta.configure_spark_with_delta_pip(builder).getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def duckdb_connection():
    package = importlib.util.find_spec("duckdb_ext")
    [extension] = pathlib.Path(next(iter(package.submodule_search_locations))).rglob("delta.duckdb_extension")
    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    connection.execute(f"LOAD '{extension}'")
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def plain(value):
    """The same value whichever reader it came from, and one that can be hashed: maps and structs as sorted pairs."""
    if isinstance(value, Row):
        value = value.asDict()
    if isinstance(value, dict):
        return tuple(sorted((key, plain(item)) for key, item in value.items()))
    if isinstance(value, list) and value and all(type(item) is tuple for item in value):
        # Arrow's maps.
        return tuple(sorted((key, plain(item)) for key, item in value))
    if isinstance(value, (list, tuple)):
        return tuple(plain(item) for item in value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, datetime.datetime):
        # Spark gives the session's time without a zone; the session's zone is UTC.
        return value.astimezone(datetime.timezone.utc)
    return value


def compare(spark, connection, path):
    by_spark = spark.read.format("delta").load(str(path))
    columns = by_spark.columns
    listed = ", ".join(f'"{column}"' for column in columns)
    described = connection.execute(f"DESCRIBE SELECT * FROM delta_scan('{path}')").fetchall()
    if [row[0] for row in described] != columns:
        sys.exit(f"{path}: Spark has the columns {columns}, DuckDB {[row[0] for row in described]}")
    spark_rows = collections.Counter(tuple(plain(value) for value in row) for row in by_spark.collect())
    arrow = connection.execute(f"SELECT {listed} FROM delta_scan('{path}')").fetch_arrow_table()
    duckdb_rows = collections.Counter(tuple(plain(row[column]) for column in columns) for row in arrow.to_pylist())
    if spark_rows != duckdb_rows:
        one, other = spark_rows - duckdb_rows, duckdb_rows - spark_rows
        sys.exit(f"{path}: of {spark_rows.total()} rows of Spark {one.total()} differ from DuckDB's {duckdb_rows.total()}:\n"
                 f"  Spark  {next(iter(one), None)}\n  DuckDB {next(iter(other), None)}")
    return spark_rows.total(), len(columns)


def versions(path):
    return len(list((path / "_delta_log").glob("*.json")))


def main():
    lake, jars = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    spark, connection = spark_session(jars), duckdb_connection()
    jvm = spark._jvm.java.lang.System.getProperty("java.version")
    print(f"Spark {spark.version}, Delta {importlib.metadata.version('delta-spark')}, Java {jvm}, DuckDB {duckdb.__version__}\n")
    print(f"{'table':<42} {'versions':>8} {'columns':>8} {'rows':>8} {'seconds':>8}")
    tables = sorted(log.parent for log in lake.glob("*/*/_delta_log"))
    for path in tables:
        started = time.monotonic()
        rows, columns = compare(spark, connection, path)
        name = f"{path.parent.name}.{path.name}"
        print(f"{name:<42} {versions(path):>8} {columns:>8} {rows:>8} {time.monotonic() - started:>8.1f}", flush=True)
    if not tables:
        sys.exit(f"{lake} has no tables")
    history = spark.sql(f"DESCRIBE HISTORY delta.`{lake / 'bronze' / 'leads'}`").collect()
    print(f"\nDESCRIBE HISTORY of bronze.leads: {', '.join(row.operation for row in history)}")
    print(f"{len(tables)} tables: every value is the same")
    spark.stop()


if __name__ == "__main__":
    main()
