"""One hub, three kinds of events, four tables: killed again and again, each table has its own events once.

The official client sends events of three types, framed by the official encoder with schemas of their own, beside bytes
that nothing can decode. `sluice run` is killed between and within the commits of its tables. In the end DuckDB and
`deltalake` read from each table exactly what the producer's log says, and `audit` is content with each of them.
Then the routes change while the tables stand apart, and a route is added: nothing is lost, and the new table takes
its history from the captures.

    routes.py [--kills N]
"""

import argparse
import collections
import random
import time

from azure.eventhub import EventData

from events import encoded, encoder, producer, send
from machine import Emulator, Process, audit, check, folder, main, run, same, say, sluice, until_caught_up, write_project
from readers import read

HUB = "events"
KINDS = ("Lead", "Click", "Order")
POINTS = ("dead-letters-committed", "data-staged", "data-committed", "checkpoints-published")


def schema(kind):
    return {"type": "record", "name": kind, "namespace": "outside", "fields": [
        {"name": "id", "type": "long"}, {"name": f"of_{kind.lower()}", "type": "string"}]}


ROUTES = """
[[route]]
schema       = "outside.Lead"
table        = "bronze.leads"
commit_every = "300ms"

[[route]]
type         = "outside.cli*"
table        = "bronze.clicks"
commit_every = "700ms"

[[route]]
when   = "_properties['test'] = 'yes'"
filter = true

[[route]]
property = {{ name = "odd", value = "yes" }}
reject   = true
{more}
"""


def declare(project, more=""):
    """The routes behind what `write_project` has written."""
    file = project / "pipelines" / "outside" / f"{HUB}.toml"
    text = file.read_text().split("\n[[route]]")[0]
    file.write_text(text + ROUTES.format(more=more))


class Sent:
    """Where each event belongs, by its id."""

    def __init__(self, emulator):
        self.next, self.homes, self.told = 0, {}, {}
        self.encoder = encoder(emulator)
        self.random = random.Random(7)

    def some(self, client, count):
        for partition in ("0", "1"):
            batch = []
            for _ in range(count // 2):
                number, self.next = self.next, self.next + 1
                kind = self.random.choice(KINDS)
                what = self.random.choice(["", "", "", "", "", "", "test", "odd", "torn"])
                value = {"id": number, f"of_{kind.lower()}": f"{kind} {number}"}
                event = encoded(self.encoder, value, schema(kind))
                if what == "torn":
                    content_type, event = event.content_type, EventData(b"")
                    event.content_type = content_type
                event.properties = {"cloudEvents_type": f"outside.{kind.lower()}", "id": str(number)}
                if what in ("test", "odd"):
                    event.properties[what] = "yes"
                self.told[number] = (kind, what)
                self.homes[number] = self.home(kind, what)
                batch.append(event)
            send(client, {"partition_id": partition}, batch)

    @staticmethod
    def home(kind, what):
        if what == "torn":
            # What can't be decoded has no schema: leads go to the default.
            return ("clicks__dead_letters" if kind == "Click" else "events__dead_letters")
        if kind == "Lead":
            return "leads"
        if kind == "Click":
            return "clicks"
        return {"test": None, "odd": "events__dead_letters", "": "events"}[what]

    def of(self, table):
        return sorted(number for number, home in self.homes.items() if home == table)


def ids(project, table, reader):
    """The ids of a table's events, as the producer sent them beside the body."""
    path = str(project / "lake" / "bronze" / table)
    rows = read(reader, path, ["_properties"], maps=("_properties",))
    return sorted(int(row["_properties"]["id"]) for row in rows)


def is_there(project, table):
    return any((project / "lake" / "bronze" / table / "_delta_log").glob("*.json"))


def judged(project, sent, tables):
    for table in tables:
        for reader in ("deltalake", "duckdb"):
            for name in (table, f"{table}__dead_letters"):
                expected = sent.of(name)
                if expected or is_there(project, name):
                    same(ids(project, name, reader), expected, f"the events of {name}, as {reader} reads them")
        found = audit(project, f"bronze.{table}")
        check(found["complete"], f"the audit of {table}: {found['problems']}")
        same(accounted(found), len(sent.homes), f"rows, rejected and filtered of {table}")


def killed(project, sent, client, kills):
    """Runs that die: at a moment of their own, or at a point of a flush of whichever table comes there."""
    chance = random.Random(11)
    for kill in range(kills):
        point = chance.choice([None, *POINTS])
        at = ["--crash-at", f"{point}:{chance.randrange(1, 5)}"] if point else []
        process = Process([sluice(), "--project", project, "run", *at])
        for _ in range(3):
            sent.some(client, 60)
            time.sleep(0.2)
        if point:
            deadline = time.monotonic() + 20
            while process.child.poll() is None and time.monotonic() < deadline:
                sent.some(client, 20)
                time.sleep(0.2)
        else:
            time.sleep(chance.uniform(0, 1.5))
        process.end()
        say(f"  kill {kill + 1} of {kills}: {point or 'at a random moment'}")


def check_routes():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--kills", type=int, default=6)
    arguments = arguments.parse_args()
    with folder() as place, Emulator({HUB: 2}, "--capture", place / "captures", "--capture-every", "1s") as emulator:
        source = f'[source.capture]\nurl = "{place / "captures"}"\n'
        project = write_project(place / "project", emulator, {HUB: ""}, source=source)
        declare(project)
        say(run(["--project", project, "check"]))
        sent = Sent(emulator)
        with producer(emulator, HUB) as client:
            sent.some(client, 100)
            killed(project, sent, client, arguments.kills)
            until_caught_up(project)
            judged(project, sent, ("events", "leads", "clicks"))
            say(f"  {len(sent.homes)} events: {dict(collections.Counter(sent.homes.values()))}")

            apart(project, sent, client)
            added(project, sent, client)


def apart(project, sent, client):
    """The routes are turned round while the tables stand apart: what one had and another dropped is somewhere."""
    before = set(sent.homes)
    sent.some(client, 200)
    process = Process([sluice(), "--project", project, "run", "--crash-at", "data-committed:1"])
    process.ended(60)
    file = project / "pipelines" / "outside" / f"{HUB}.toml"
    told = file.read_text()
    file.write_text(told.replace('schema       = "outside.Lead"', 'schema       = "outside.Order"'))
    summary = until_caught_up(project)[HUB]
    same(summary["received"], summary["committed"] + summary["rejected"] + summary["filtered"] + summary["duplicate"], "conservation")
    found = collections.Counter()
    for table in ("events", "leads", "clicks"):
        for name in (table, f"{table}__dead_letters"):
            if is_there(project, name):
                found.update(ids(project, name, "deltalake"))
        check(audit(project, f"bronze.{table}")["complete"], f"the audit of {table}")
    wanted = {number for number, (_, what) in sent.told.items() if what != "test"} - before
    same(sorted(wanted - set(found)), [], "events that no table has after the routes were turned round")
    file.write_text(told)


def added(project, sent, client):
    """A table that a later route names begins where reading goes on, and takes its history by a backfill."""
    until_caught_up(project)
    declare(project, '\n[[route]]\ntype = "outside.order"\ntable = "bronze.orders"\n')
    counted = len(sent.homes)
    sent.some(client, 100)
    until_caught_up(project)
    found = audit(project, "bronze.orders")
    check(found["complete"], f"the audit of the new table: {found['problems']}")
    same(accounted(found), len(sent.homes) - counted, "what the new table accounts for")

    deadline = time.monotonic() + 40
    while accounted(audit(project, "bronze.orders", expect=None)) < len(sent.homes):
        check(time.monotonic() < deadline, "the captures don't come to hold the history")
        run(["--project", project, "backfill", HUB], expect=None)
        time.sleep(0.5)
    check(audit(project, "bronze.orders")["complete"], "the audit of the new table after its backfill")
    for name, whats in (("orders", ("",)), ("orders__dead_letters", ("torn",))):
        expected = sorted(number for number, (kind, what) in sent.told.items() if kind == "Order" and what in whats)
        same(ids(project, name, "duckdb"), expected, f"the events of {name}, with its history")
    for table in ("events", "leads", "clicks"):
        check(audit(project, f"bronze.{table}")["complete"], f"the audit of {table} after the backfill")
    say("  a table that was added later has its history")


def accounted(found):
    return found["rows"] + found["rejected"] + found["filtered"]


if __name__ == "__main__":
    main(check_routes)
