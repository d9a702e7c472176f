"""A stream whose schema changes while `sluice run` goes on: no restart, no loss, and old rows read right.

Thirteen versions of one schema, each registered and written by the official encoder, with events of all older
versions in between. Four tables take them in: one that evolves, one that fills in defaults, one that is pinned to the
first version, and one that isn't to change at all, which stops the one partition that brings news.

    evolution.py
"""

import json
import random
import time

import deltalake

from events import encoded, encoder, producer, send
from machine import Emulator, Process, audit, check, folder, main, run, same, say, sluice, write_project
from readers import READERS, read

EACH = 40
WAIT_SECONDS = 60


def record(name, *fields):
    return {"type": "record", "name": name, "fields": list(fields)}


def field(name, of, **more):
    return {"name": name, "type": of, **more}


def optional(of):
    return ["null", of]


# As they change: each version is the one before, with some fields put in the place of others.
FIRST = {
    "id": field("id", "long"),
    "amount": field("amount", "int"),
    "rate": field("rate", "float"),
    "status": field("status", {"type": "enum", "name": "Status", "symbols": ["NEW", "PAID"]}),
    "customer": field("customer", record("Customer", field("name", "string"))),
    "note": field("note", optional("string"), default=None),
}
CITY = field("city", optional("string"), default=None)
CHANGES = [
    ("a field is added", {"channel": field("channel", "string", default="web")}),
    ("a field is gone", {"note": None}),
    ("int becomes long", {"amount": field("amount", "long")}),
    ("float becomes double", {"rate": field("rate", "double")}),
    ("an enum grows", {"status": field("status", {"type": "enum", "name": "Status", "symbols": ["NEW", "PAID", "SENT"]})}),
    ("a record gains a field", {"customer": field("customer", record("Customer", field("name", "string"), CITY))}),
    ("a field is renamed", {"channel": None, "via": field("via", "string", aliases=["channel"])}),
    ("a field is made optional", {"customer": field("customer", optional(record("Customer", field("name", "string"), CITY)))}),
    ("lists and maps of records are added", {
        "lines": field("lines", {"type": "array", "items": record("Line", field("sku", "string"))}, default=[]),
        "prices": field("prices", {"type": "map", "values": record("Price", field("net", "double"))}, default={}),
    }),
    ("their records gain fields", {
        "lines": field("lines", {"type": "array", "items": record("Line", field("sku", "string"), field("count", "int", default=1))}, default=[]),
        "prices": field("prices", {"type": "map", "values": record("Price", field("net", "double"), field("gross", optional("double"), default=None))}, default={}),
    }),
    ("a field comes back", {"note": field("note", optional("string"), default=None)}),
    ("a number becomes a text", {"amount": field("amount", "string")}),
]


def versions():
    fields, schemas = dict(FIRST), []
    for _, change in [("", {})] + CHANGES:
        fields.update(change)
        schemas.append({"type": "record", "name": "Order", "namespace": "outside", "fields": [one for one in fields.values() if one]})
    return schemas


def value(of, name, r):
    """A value of a schema's type."""
    if isinstance(of, list):
        return None if r.random() < 0.3 else value(of[1], name, r)
    if isinstance(of, dict):
        match of["type"]:
            case "record":
                return {one["name"]: value(one["type"], one["name"], r) for one in of["fields"]}
            case "enum":
                return r.choice(of["symbols"])
            case "array":
                return [value(of["items"], name, r) for _ in range(r.randrange(3))]
            case "map":
                return {key: value(of["values"], name, r) for key in r.sample(["a", "b", "c"], r.randrange(3))}
    match of:
        case "int":
            return r.randrange(-2**31, 2**31)
        case "long":
            return r.randrange(-2**63, 2**63)
        case "float":
            return r.randrange(-1000, 1000) / 8
        case "double":
            return r.random()
        case "string":
            return r.choice([f"{name} {r.randrange(100)}", "Größe", ""])


class Sender:
    """Sends events of any version, and remembers them."""

    def __init__(self, emulator, hub):
        self.schemas, self.client, self.avro = versions(), producer(emulator, hub), encoder(emulator)
        self.sent, self.random = [], random.Random(5)

    def send(self, version, count, partition=None, mixed=False):
        events = []
        for at in range(count):
            of = self.random.randrange(version + 1) if mixed and at % 2 else version
            event = value(self.schemas[of], "Order", self.random) | {"id": len(self.sent)}
            self.sent.append((of, event))
            events.append(encoded(self.avro, event, self.schemas[of]))
        partition = self.random.choice(["0", "1"]) if partition is None else partition
        send(self.client, {"partition_id": partition}, events)


NAMES = ["id", "amount", "rate", "status", "customer", "note", "channel", "lines", "prices"]


def held(of, event):
    """The row of an event where all columns are known, and nothing is filled in."""
    row = {name: event.get("via" if name == "channel" and "via" in event else name) for name in NAMES}
    if row["customer"] is not None:
        row["customer"] = {"name": None, "city": None} | row["customer"]
    if row["lines"] is not None:
        row["lines"] = [{"sku": None, "count": None} | line for line in row["lines"]]
    if row["prices"] is not None:
        row["prices"] = {key: {"net": None, "gross": None} | price for key, price in row["prices"].items()}
    row["_rescued"] = None
    if of == len(CHANGES):
        row["_rescued"], row["amount"] = {"amount": event["amount"]}, None
    return row


def filled(row):
    """The same once the table has met each default."""
    row = dict(row)
    row["channel"] = "web" if row["channel"] is None else row["channel"]
    row["lines"] = [] if row["lines"] is None else [line | {"count": 1 if line["count"] is None else line["count"]} for line in row["lines"]]
    row["prices"] = {} if row["prices"] is None else row["prices"]
    return row


def pinned(of, event):
    """What the columns of the first version hold, and the rest."""
    row = {name: event.get(name) for name in FIRST}
    rescued = {name: other for name, other in event.items() if name not in FIRST and other is not None}
    if row["customer"] is not None:
        row["customer"] = {"name": event["customer"]["name"]}
        if event["customer"].get("city") is not None:
            rescued["customer"] = {"city": event["customer"]["city"]}
    if of == len(CHANGES):
        rescued["amount"], row["amount"] = event["amount"], None
    for price in rescued.get("prices", {}).values():
        if price.get("gross", 0) is None:
            del price["gross"]
    row["_rescued"] = rescued or None
    return row


def table(project, name):
    return str(project / "lake" / "bronze" / name)


def rows(reader, path, columns, key="id"):
    found = read(reader, path, columns + ["_rescued"], maps=["prices"])
    for row in found:
        row["_rescued"] = json.loads(row["_rescued"]) if row["_rescued"] else None
    return {row[key]: row for row in found}


def asked(project, name, columns):
    listed = ", ".join(columns + ["_rescued"])
    found = json.loads(run(["--project", project, "query", f"SELECT {listed} FROM bronze.{name}", "--format", "json"]))
    for row in found:
        row["_rescued"] = json.loads(row["_rescued"]) if row["_rescued"] else None
    return {row["id"]: row for row in found}


def compared(found, expected, what):
    same(len(found), len(expected), f"{what}: rows")
    for key, row in expected.items():
        same(found[key], row, f"{what}: row {key}")


def pipeline(project, name, decode):
    (project / "pipelines" / "outside" / f"{name}.toml").write_text(f"""
[pipeline]
name  = "{name}"
owner = "outside"

[source.event_hubs]
hub            = "orders"
consumer_group = "{name}"

[decode]
{decode}

[sink]
table        = "bronze.{name}"
commit_every = "300ms"
""")


def committed(project, name, count, process):
    """Waits until the table holds so many rows."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            found = deltalake.DeltaTable(table(project, name)).count()
        except Exception:  # noqa: BLE001 - it isn't there yet, or is read in the midst of a commit
            found = 0
        if found >= count:
            return
        check(process.child.poll() is None, f"`sluice run` ended\n{process.said()}")
        check(time.monotonic() < deadline, f"{name} has {found} rows of {count} after {WAIT_SECONDS} s\n{process.said()}")
        time.sleep(0.1)


TABLES = {"evolving": "", "filling": "defaults = true", "pinned": 'on_schema_change = "pin"'}


def stream(place, emulator):
    project = write_project(place / "stream", emulator, {})
    for name, decode in TABLES.items():
        pipeline(project, name, decode)
    sender = Sender(emulator, "orders")
    sender.send(0, EACH)
    running = Process([sluice(), "--project", project, "run"])
    for version in range(len(sender.schemas)):
        for _ in range(2):
            sender.send(version, EACH, mixed=True)
        for name in TABLES:
            committed(project, name, len(sender.sent), running)
    # All defaults are known by now.
    known_from = len(sender.sent)
    sender.send(len(CHANGES), 3 * EACH, mixed=True)
    for name in TABLES:
        committed(project, name, len(sender.sent), running)
    same(running.stop(), 0, "the exit code of `sluice run`, which was never restarted")
    for name in TABLES:
        proof = audit(project, f"bronze.{name}")
        same((proof["complete"], proof["rows"], proof["rejected"]), (True, len(sender.sent), 0), f"the audit of {name}: {proof}")

    expected = {event["id"]: held(of, event) for of, event in sender.sent}
    compared(asked(project, "evolving", NAMES), expected, "sluice query")
    for reader in READERS:
        compared(rows(reader, table(project, "evolving"), NAMES), expected, reader)

    found = asked(project, "filling", NAMES)
    same(len(found), len(expected), "rows that are filled in")
    for key, row in expected.items():
        # Before the table had met a default, a row was committed without.
        if key >= known_from:
            same(found[key], filled(row), f"defaults: row {key}")
        else:
            same({**found[key], **{name: row[name] for name in ("channel", "lines", "prices")}}, row, f"defaults: row {key}")

    expected = {event["id"]: pinned(of, event) for of, event in sender.sent}
    compared(asked(project, "pinned", list(FIRST)), expected, "pinned")
    told(project, sender)
    say(f"  stream: {len(sender.schemas)} versions, {len(sender.sent)} events into {len(TABLES)} tables, read by {', '.join(READERS)}")


def told(project, sender):
    """Each change stands in a commit of its own, with the schema that brought it."""
    history = deltalake.DeltaTable(table(project, "evolving")).history()
    changes = [commit for commit in history if "sluiceColumns" in commit]
    added = [name for commit in changes for name in commit["sluiceColumns"].get("added", [])]
    check({"channel", "customer.city", "lines", "prices", "lines.count", "prices.gross"} <= set(added), f"columns that were added: {added}")
    same([name for name in added if added.count(name) > 1], [], "columns that were added twice")
    same([commit["sluiceColumns"]["aliases"] for commit in changes if "aliases" in commit["sluiceColumns"]], [{"channel": ["via"]}], "aliases")
    check(all(commit["sluiceSchemas"] for commit in changes), "each change names a schema")
    rescued = sum(commit["sluiceRescued"]["amount"] for commit in history if "sluiceRescued" in commit)
    same(rescued, sum(of == len(CHANGES) for of, _ in sender.sent), "rescued values that commits tell of")
    same([commit for commit in deltalake.DeltaTable(table(project, "pinned")).history() if "sluiceColumns" in commit][1:], [], "changes of the pinned table")


def strict(place, emulator):
    project = write_project(place / "strict", emulator, {"strict": ""})
    path = project / "pipelines" / "outside" / "strict.toml"
    path.write_text(path.read_text() + '\n[decode]\non_schema_change = "fail"\n')
    sender = Sender(emulator, "strict")
    for partition in ("0", "1"):
        sender.send(0, EACH, partition)
    run(["--project", project, "run", "--until-caught-up"])
    sender.send(1, 1, "1")
    sender.send(0, EACH, "1")
    sender.send(0, EACH, "0")
    _, words = run(["--project", project, "run", "--until-caught-up"], expect=1)
    schema = encoded(sender.avro, sender.sent[-1 - 2 * EACH][1], sender.schemas[1]).content_type.split("+")[1]
    for part in ("bronze.strict", "the field `channel` has no column", schema, "on_schema_change"):
        check(part in words, f"{part!r} is missing in\n{words}")
    found = read("deltalake", table(project, "strict"), ["_partition"])
    same(sorted(row["_partition"] for row in found), ["0"] * 2 * EACH + ["1"] * EACH, "partition 1 has stopped, and 0 hasn't")
    path.write_text(path.read_text().replace('"fail"', '"evolve"'))
    run(["--project", project, "run", "--until-caught-up"])
    same(len(read("deltalake", table(project, "strict"), ["id", "channel"])), len(sender.sent), "rows once columns may be added")
    say("  strict: the partition that brought a new field stopped, the other went on; nothing was lost")


def check_all():
    with folder() as place, Emulator({"orders": 2, "strict": 2}) as emulator:
        strict(place, emulator)
        stream(place, emulator)


if __name__ == "__main__":
    main(check_all)
