"""Dead letters, mended: a schema that nobody had registered, and one that was wrong; replayed with kills at every named
point and beside a live pipeline; then dropped, and let go by retention.

The events are encoded by fastavro and carry ids that the registry doesn't know yet: an id of the emulator's is a hash of
what is registered, so a second emulator tells it beforehand. What was sent is this file's own; rows are read by
deltalake and DuckDB.

    dead_letters.py
"""

import collections
import json
import random
import time

from azure.eventhub import EventData

from events import GROUP, producer, registry_client, send
from fifty_thousand import equal
from framings import datum
from machine import Emulator, Process, audit, check, folder, main, run, same, say, sluice, until_caught_up, write_project
from readers import read

HUB = "leads"
TABLE = f"bronze.{HUB}"
PARTITIONS = 2
EVENTS = 3_000
KNOWN = {"type": "record", "name": "Known", "fields": [{"name": "id", "type": "string"}, {"name": "n", "type": "long"}]}
LATE = {"type": "record", "name": "Late", "fields": KNOWN["fields"] + [{"name": "more", "type": ["null", "double"], "default": None}]}
POINTS = ["replay-staged", "replay-committed", "letters-staged", "letters-committed"]


def registered(emulator, schema):
    with registry_client(emulator) as client:
        return client.register_schema(GROUP, schema["name"], json.dumps(schema), "Avro").id


def framed(schema_id, body):
    event = EventData(body)
    event.content_type = f"avro/binary+{schema_id}"
    return event


class Sent:
    """What each partition was sent, by number: the row that it is to become, or none for bytes that nothing can mend."""

    def __init__(self, known, late):
        self.known, self.late = known, late
        self.rows = {str(partition): [] for partition in range(PARTITIONS)}
        self.random = random.Random(20)

    def send(self, emulator, count):
        with producer(emulator, HUB) as client:
            for partition, rows in self.rows.items():
                events = []
                for number in range(len(rows), len(rows) + count // PARTITIONS):
                    chance = self.random.random()
                    row = {"id": f"{partition}-{number}", "n": number}
                    if chance < 0.1:
                        row["more"] = self.random.choice([None, number / 3])
                        events.append(framed(self.late, datum(LATE, row)))
                    elif chance < 0.12:
                        row = None
                        events.append(framed(self.known, b"\xff\xff\xff"))
                    else:
                        events.append(framed(self.known, datum(KNOWN, row)))
                        row["more"] = None
                    rows.append(row)
                send(client, {"partition_id": partition}, events)

    def all(self):
        return {(partition, number): row for partition, rows in self.rows.items() for number, row in enumerate(rows)}


def told(project, *arguments, expect=0):
    out = run(["--project", project, "dead-letters", *arguments, "--format", "json"], expect=expect)
    return json.loads(out[0] if expect else out)


def held(project, reader, columns=("id", "n", "more")):
    place = str(project / "lake" / "bronze" / HUB)
    return read(reader, place, ["_partition", "_sequence_number", *columns])


def counts(project):
    proof = audit(project, TABLE)
    same((proof["complete"], proof["duplicates"], proof["missing"]), (True, 0, 0), f"the audit: {proof['problems']}")
    return proof["rows"], proof["rejected"], proof["expired"]


def each_once(project, sent):
    """Every event that can be a row is one, once, with its values, whichever reader is asked."""
    expected = {key: row for key, row in sent.all().items() if row is not None}
    for reader in ("deltalake", "duckdb"):
        rows = held(project, reader)
        times = collections.Counter((row["_partition"], row["_sequence_number"]) for row in rows)
        same(max(times.values()), 1, f"how often a number is there, as {reader} reads it")
        same(set(times), set(expected), f"the numbers that {reader} reads")
        for row in rows:
            wanted = expected[(row["_partition"], row["_sequence_number"])]
            for column, value in wanted.items():
                check(equal(row[column], value), f"{reader}: `{column}` of {row}, sent was {wanted}")


def killed_at(project, point, *arguments):
    died = Process([sluice(), "--project", project, "dead-letters", *arguments, "--crash-at", point])
    check(died.ended(60) not in (0, 1), f"`{arguments}` didn't die at {point}: {died.said()}")


def replay(emulator, project, sent):
    """Kills at each point, a live pipeline beside it that takes in and rejects meanwhile."""
    live = Process([sluice(), "--project", project, "run"])
    for point in POINTS:
        sent.send(emulator, 200)
        killed_at(project, point, "replay", HUB)
        counts(project)
    until = time.monotonic() + 60
    while True:
        sent.send(emulator, 100)
        done = json.loads(run(["--project", project, "dead-letters", "replay", HUB, "--class", "schema_not_found", "--format", "json"]))
        counts(project)
        if told(project, "list", HUB, "--class", "schema_not_found")["tables"][0]["waiting"] == 0:
            break
        check(time.monotonic() < until, f"letters of a schema that is there still wait: {done}")
    same(live.stop(), 0, "the exit code of the live pipeline")
    until_caught_up(project)


def run_check():
    with Emulator({HUB: 1}) as other:
        late = registered(other, LATE)
    with folder() as place, Emulator({HUB: PARTITIONS}) as emulator:
        sent = Sent(registered(emulator, KNOWN), late)
        sent.send(emulator, EVENTS)
        project = write_project(place / "project", emulator, {HUB: ""})
        report = until_caught_up(project)[HUB]
        torn = sum(row is None for row in sent.all().values())
        listing = told(project, "list", HUB)["tables"][0]
        by_class = {held["class"]: held["waiting"] for held in listing["classes"]}
        same(report["rejected"], listing["waiting"], "letters that wait, and events rejected")
        same(by_class["datum"], torn, "letters of torn bytes")
        check(by_class["schema_not_found"] > EVENTS / 20, f"letters without a schema: {by_class}")
        same(counts(project)[1], listing["waiting"], "rejected, as the audit counts")
        say(f"  {EVENTS} events, of which are rejected: {by_class}")

        done = told(project, "replay", HUB, expect=1)
        same((done["replayed"], done["failed_by_class"]), (0, by_class), "a replay before anything was mended")
        letter = told(project, "list", HUB, "--limit", "1")["tables"][0]["letters"][0]
        same(letter["attempt"], 2, "the attempt after it")

        same(registered(emulator, LATE), late, "the id that the events name")
        replay(emulator, project, sent)
        each_once(project, sent)
        rows, rejected, _ = counts(project)
        torn = sum(row is None for row in sent.all().values())
        same((rows, rejected), (len(sent.all()) - torn, torn), "rows and letters when all is mended")
        same(told(project, "replay", HUB, expect=1)["replayed"], 0, "what a further replay lands")
        say(f"  mended: {rows} rows, each once, killed at {', '.join(POINTS)}, beside a live pipeline; {torn} can't be")

        gone(project, sent, torn)


def gone(project, sent, torn):
    letters = told(project, "list", HUB, "--limit", "100000")["tables"][0]["letters"]
    key = letters[0]["key"]
    body = run(["--project", project, "dead-letters", "show", HUB, key, "--bytes", "hex", "--format", "json"])
    same(json.loads(body)["body"], "ffffff", "the bytes of a letter")
    for point in ("letters-staged", "letters-committed", "expired-counted"):
        killed_at(project, point, "drop", HUB, "--partition", "0", "--yes")
        counts(project)
    told(project, "drop", HUB, "--partition", "0", "--yes")
    of_partition = sum(row is None for row in sent.rows["0"])
    same(counts(project)[1:], (torn, of_partition), "rejected and expired after a drop")

    pipeline = project / "pipelines" / "outside" / f"{HUB}.toml"
    pipeline.write_text(pipeline.read_text() + 'dead_letters_retention = "1s"\n')
    live = Process([sluice(), "--project", project, "run"])
    until = time.monotonic() + 60
    while counts(project)[2] != torn:
        check(time.monotonic() < until, "retention takes the bytes of what is left")
        time.sleep(0.5)
    same(live.stop(), 0, "the exit code of the live pipeline")
    place = str(project / "lake" / "bronze" / f"{HUB}__dead_letters")
    for row in read("deltalake", place, ["body", "error", "replayed_at", "expired_at"]):
        same((row["body"], row["error"] if row["replayed_at"] is None else None), (None, None), f"what is left of a letter: {row}")
    each_once(project, sent)
    say(f"  dropped {of_partition}, by retention {torn - of_partition}: complete, with their bytes gone")


if __name__ == "__main__":
    main(run_check)
