"""The table of docs/types.md, row by row: Avro by fastavro, through `sluice run`, into Delta, by three readers.

Each row of the table has its case here, and each case its row; so that neither can be forgotten.

    avro_types.py
"""

import datetime
import decimal
import io
import json
import pathlib
import uuid

import fastavro
from azure.eventhub import EventData

from events import GROUP, producer, registry_client, send
from machine import Emulator, audit, check, folder, main, run, same, say, until_caught_up, write_project
from readers import READERS, read

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "types.md"
UTC = datetime.timezone.utc
MOMENT = datetime.datetime(2026, 11, 25, 17, 0, 0, 123456, UTC)
LONG = int((MOMENT - datetime.datetime(1970, 1, 1, tzinfo=UTC)) / datetime.timedelta(microseconds=1))
MILLIS = MOMENT.replace(microsecond=123000)
UUID = uuid.UUID("550e8400-e29b-41d4-a716-446655440000")
NOTHING = object()


def logical(of, name, **more):
    return {"type": of, "logicalType": name, **more}


def fixed(name, size, **more):
    return {"type": "fixed", "name": name, "size": size, **more}


def record(name, *fields):
    return {"type": "record", "name": name, "fields": [{"name": called, "type": of} for called, of in fields]}


# The first cell of the row; the type; what is written, and what a reader gives. `NOTHING`: there is no column.
# Where fastavro doesn't know a logical type, what lies below it is written.
CASES = [
    ("`null`", "null", None, NOTHING),
    ("`boolean`", "boolean", True, True),
    ("`int`", "int", -2**31, -2**31),
    ("`long`", "long", 2**63 - 1, 2**63 - 1),
    ("`float`", "float", 0.1, 0.10000000149011612),
    ("`double`", "double", 5e-324, 5e-324),
    ("`bytes`", "bytes", b"\x00\xff", b"\x00\xff"),
    ("`string`", "string", "Größe ☀", "Größe ☀"),
    ("`fixed`", fixed("Fixed", 2), b"\x00\xff", b"\x00\xff"),
    ("`enum`", {"type": "enum", "name": "Enum", "symbols": ["A", "B"]}, "B", "B"),
    ("`decimal` in `bytes`", logical("bytes", "decimal", precision=38, scale=10), decimal.Decimal("-1234567890.0123456789"), decimal.Decimal("-1234567890.0123456789")),
    ("`decimal` in `fixed`", fixed("Money", 8, logicalType="decimal", precision=12, scale=2), decimal.Decimal("9999999999.99"), decimal.Decimal("9999999999.99")),
    ("`big-decimal`", logical("bytes", "big-decimal"), b"\x02\x07\x04", b"\x02\x07\x04"),
    ("`uuid` in `string`", logical("string", "uuid"), UUID, str(UUID)),
    ("`uuid` in `fixed` or `bytes`", fixed("Uuid", 16, logicalType="uuid"), UUID.bytes, str(UUID)),
    ("`uuid` in `fixed` or `bytes`", logical("bytes", "uuid"), UUID.bytes, str(UUID)),
    ("`date`", logical("int", "date"), datetime.date(1969, 12, 31), datetime.date(1969, 12, 31)),
    ("`time-millis`", logical("int", "time-millis"), datetime.time(0, 0, 1, 2000), 1002),
    ("`time-micros`", logical("long", "time-micros"), datetime.time(0, 0, 1, 2), 1000002),
    ("`timestamp-millis`", logical("long", "timestamp-millis"), MILLIS, MILLIS),
    ("`timestamp-micros`", logical("long", "timestamp-micros"), MOMENT, MOMENT),
    ("`timestamp-nanos`", logical("long", "timestamp-nanos"), LONG * 1000 + 999, MOMENT),
    ("`local-timestamp-*`", logical("long", "local-timestamp-millis"), MILLIS.replace(tzinfo=None), MILLIS),
    ("`local-timestamp-*`", logical("long", "local-timestamp-micros"), MOMENT.replace(tzinfo=None), MOMENT),
    ("`local-timestamp-*`", logical("long", "local-timestamp-nanos"), LONG * 1000, MOMENT),
    ("`duration`", fixed("Duration", 12, logicalType="duration"), bytes([1, 0, 0, 0, 2, 0, 0, 0]) + b"\xff" * 4, {"months": 1, "days": 2, "millis": 2**32 - 1}),
    ("`array`", {"type": "array", "items": ["null", "string"]}, ["a", None, ""], ["a", None, ""]),
    ("`map`", {"type": "map", "values": "long"}, {"k": 1}, {"k": 1}),
    ("`record`", record("Record", ("a", "int"), ("b", record("Inner", ("c", "string")))), {"a": 1, "b": {"c": "x"}}, {"a": 1, "b": {"c": "x"}}),
    ("`record` without a field that has a column", record("Empty", ("a", "null")), {"a": None}, NOTHING),
    ("`[\"null\", T]` or `[T, \"null\"]`", ["null", "string"], None, None),
    ("`[\"null\", T]` or `[T, \"null\"]`", ["string", "null"], "x", "x"),
    ("`[T]`", ["string"], "x", "x"),
    ("another union", ["null", "int", "string"], "x", {"int": None, "string": "x"}),
    ("another union", ["null", "int", "string"], None, None),
    ("another logical type", logical("int", "shoe-size"), 42, 42),
]
MAPS = [f"f{at}" for at, case in enumerate(CASES) if case[0] == "`map`"]

# What is refused, and how it is called.
REFUSED = [
    (record("Tree", ("twigs", {"type": "array", "items": "Tree"})), "the field `twigs` is of the recursive type `Tree`, which no table can hold"),
    (record("Wide", ("d", logical("bytes", "decimal", precision=39, scale=0))), "the field `d` is a decimal of 39 digits, and Delta holds at most 38"),
    (record("Nulls", ("n", {"type": "array", "items": "null"})), "the field `n` is an array or a map of nothing but nulls"),
]

# A field, its column; `SCHEMA_NAMES` are all of one record.
NAMES = [("_offset", "_x005F_offset"), ("_x0020", "_x005F_x0020"), ("id", "id"), ("ID", "_x0049_D"), ("Id", "_x0049__x0064_")]


def rows_of_the_docs():
    lines = DOCS.read_text().splitlines()
    table = lines[next(at for at, line in enumerate(lines) if line.startswith("| Avro |")) + 2:]
    found = []
    for line in table:
        if not line.startswith("|"):
            return found
        found.append(line.split("|")[1].strip())


def without_repeats(names):
    return [name for at, name in enumerate(names) if name not in names[:at]]


def datum(schema, value):
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()


def framed(client, schema, bodies):
    schema_id = client.register_schema(GROUP, f"outside.{schema['name']}", json.dumps(schema), "Avro").id
    events = [EventData(body) for body in bodies]
    for event in events:
        event.content_type = f"avro/binary+{schema_id}"
    return events


def check_all():
    same(without_repeats([case[0] for case in CASES]), rows_of_the_docs(), "rows of docs/types.md, in its order")
    everything = record("Everything", *((f"f{at}", case[1]) for at, case in enumerate(CASES)))
    names = record("Names", *((called, "string") for called, _ in NAMES))
    written = {f"f{at}": case[2] for at, case in enumerate(CASES)}
    with folder() as place, Emulator({"types": 1, "names": 1}) as emulator:
        with registry_client(emulator) as client:
            good = framed(client, everything, [datum(everything, written)] * 2)
            bad = [event for schema, _ in REFUSED for event in framed(client, schema, [b"\x00"])]
            named = framed(client, names, [datum(names, {called: called for called, _ in NAMES})])
        for hub, events in (("types", good + bad), ("names", named)):
            with producer(emulator, hub) as client:
                send(client, {"partition_id": "0"}, events)
        project = write_project(place / "project", emulator, {"types": "", "names": ""})
        report = until_caught_up(project)["types"]
        same((report["committed"], report["rejected"]), (len(good), len(bad)), "rows and rejects")
        check(audit(project, "bronze.types")["complete"], "the audit")

        table = str(project / "lake" / "bronze" / "types")
        columns = [f"f{at}" for at, case in enumerate(CASES) if case[3] is not NOTHING]
        for reader in READERS:
            found = read(reader, table, columns, MAPS)
            same(len(found), len(good), f"rows by {reader}")
            for at, (called, of, _, expected) in enumerate(CASES):
                if expected is not NOTHING:
                    same(found[0][f"f{at}"], expected, f"{called} ({json.dumps(of)}) by {reader}")
        present = json.loads(run(["--project", project, "query", "DESCRIBE bronze.types", "--format", "json"]))
        present = {row["column_name"] for row in present}
        for at, (called, *_, expected) in enumerate(CASES):
            check((f"f{at}" in present) == (expected is not NOTHING), f"{called}: whether it has a column")

        letters = read("deltalake", table + "__dead_letters", ["_sequence_number", "error_class", "error"])
        letters = sorted(letters, key=lambda row: row["_sequence_number"])
        same([row["error"] for row in letters], [words for _, words in REFUSED], "why types are refused")
        same({row["error_class"] for row in letters}, {"schema_unusable"}, "the class of refused types")
        for reader in READERS:
            [row] = read(reader, str(project / "lake" / "bronze" / "names"), [column for _, column in NAMES])
            same(row, {column: called for called, column in NAMES}, f"names by {reader}")
        say(f"  {len(CASES)} types and {len(NAMES)} names, by {', '.join(READERS)}; {len(REFUSED)} refused by name")


if __name__ == "__main__":
    main(check_all)
