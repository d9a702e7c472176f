"""The second path: what Event Hubs Capture kept lands on the same ledger as what was read live.

    capture.py [--kills N] [--handovers N]

A real file of the service, files that fastavro wrote with either form of the unions and either codec, and
what the emulator captured beside the live path: history before the hub's first event, holes that retention
left, a blob that is gone, a hub that was made anew, and both paths at once, killed at random.
"""

import argparse
import concurrent.futures
import contextlib
import datetime
import fcntl
import io
import json
import os
import pathlib
import pty
import random
import re
import shutil
import struct
import subprocess
import termios
import threading
import time

import fastavro

from events import SCHEMA, encoded, encoder, producer, send, values
from machine import Emulator, Process, audit, check, folder, main, run as sluice, same, say, sluice as binary, until_caught_up, write_project
from readers import read

HUB = "leads"
here = pathlib.Path(__file__).resolve().parent
REAL = here.parent / "data" / "capture" / "p9--2022-12-09--16-50-12.avro"
REAL_TEMPLATE = "{Namespace}/{EventHub}/p{PartitionId}--{Year}-{Month}-{Day}--{Hour}-{Minute}-{Second}"

EVENT_DATA = {
    "type": "record", "name": "EventData", "namespace": "Microsoft.ServiceBus.Messaging", "fields": [
        {"name": "SequenceNumber", "type": "long"},
        {"name": "Offset", "type": "string"},
        {"name": "EnqueuedTimeUtc", "type": "string"},
        {"name": "SystemProperties", "type": {"type": "map", "values": ["long", "double", "string", "bytes"]}},
        {"name": "Properties", "type": {"type": "map", "values": ["long", "double", "string", "bytes"]}},
        {"name": "Body", "type": ["null", "bytes"]},
    ],
}
# As the service writes it by now.
EVENT_DATA_2022 = json.loads(json.dumps(EVENT_DATA))
EVENT_DATA_2022["fields"][4]["type"]["values"].append("null")


def project(place, emulator, captures, source="", live='start = "earliest"', template=None, decode=None):
    table = f'[source.capture]\nurl = "{captures}"\nsweep_every = "1s"\n'
    if template:
        table += f'template = "{template}"\n'
    written = write_project(place, emulator, {HUB: live}, source=source)
    file = written / "pipelines" / "outside" / f"{HUB}.toml"
    file.write_text(file.read_text() + f"\n{table}\n" + (decode or ""))
    return written


def backfill(project, *arguments, expect=0):
    out = sluice(["--project", project, "backfill", HUB, "--format", "json", *arguments], expect=expect)
    return json.loads(out[0] if expect else out)["pipelines"][0]


def table_of(project):
    return str(project / "lake" / "bronze" / HUB)


def the_real_file(place, emulator):
    captures = place / "real"
    (captures / "emulator" / HUB).mkdir(parents=True)
    shutil.copy(REAL, captures / "emulator" / HUB / REAL.name)
    made = project(place / "project", emulator, captures, template=REAL_TEMPLATE, decode='[decode]\nformat = "raw"\n')
    same(backfill(made)["committed"], 1, "events of the real file")
    [row] = read("deltalake", table_of(made), ["body", "_partition", "_sequence_number", "_offset", "_enqueued_at", "_properties", "_origin"])
    with REAL.open("rb") as file:
        [event] = fastavro.reader(file)
    enqueued = datetime.datetime.fromtimestamp(event["SystemProperties"]["x-opt-enqueued-time"] / 1000, datetime.timezone.utc)
    same(
        (row["body"], row["_partition"], row["_sequence_number"], row["_offset"], row["_enqueued_at"], row["_properties"] or {}),
        (event["Body"], "9", event["SequenceNumber"], event["Offset"], enqueued, event["Properties"]), "the row of the real file",
    )
    check(row["_origin"].endswith(f"emulator/{HUB}/{REAL.name}"), f"the origin is {row['_origin']}")
    say("  the real file: its row, every value as fastavro reads it")


def datum(event):
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(json.dumps(SCHEMA))), event)
    return out.getvalue()


def record(number, event):
    """The enqueued time stands in the text alone in old files, and to the millisecond beside it in new ones."""
    at = datetime.datetime(2026, 11, 25, 1, 2, 3, tzinfo=datetime.timezone.utc) + datetime.timedelta(milliseconds=1001 * number)
    hour = at.strftime("%I").lstrip("0")
    system = {} if number % 5 == 0 else {"x-opt-enqueued-time": int(at.timestamp() * 1000)}
    return at if system else at.replace(microsecond=0), {
        "SequenceNumber": number, "Offset": str(number * 100),
        "EnqueuedTimeUtc": f"{at.month}/{at.day}/{at.year} {hour}:{at.strftime('%M:%S %p')}",
        "SystemProperties": system,
        "Properties": {"tries": number, "share": number / 4, "who": "Zoë", "raw": b"\xfb\xff"},
        "Body": datum(event),
    }


def files_of_either_form(place, emulator):
    captures = place / "captures"
    sent = values(400, seed=21)
    expected, number = {}, 0
    for index, (schema, codec, count) in enumerate([
        (EVENT_DATA, "null", 100), (EVENT_DATA, "deflate", 0), (EVENT_DATA_2022, "deflate", 150), (EVENT_DATA_2022, "null", 0), (EVENT_DATA, "deflate", 150),
    ]):
        records = []
        for event in sent[number:number + count]:
            at, written = record(number, event)
            if schema is EVENT_DATA_2022:
                written["Properties"]["nothing"] = None
            expected[number] = (event["lead_id"], at, schema is EVENT_DATA_2022)
            records.append(written)
            number += 1
        path = captures / "emulator" / HUB / "3" / "2026" / "11" / "25" / "01" / f"{index:02}" / "00.avro"
        path.parent.mkdir(parents=True)
        with path.open("wb") as file:
            fastavro.writer(file, fastavro.parse_schema(json.loads(json.dumps(schema))), records, codec=codec, sync_interval=2000)
    schema = place / "project" / "schemas" / "lead.avsc"
    schema.parent.mkdir(parents=True)
    schema.write_text(json.dumps(SCHEMA))
    made = project(place / "project", emulator, captures, decode='[decode]\nschema = "schemas/lead.avsc"\nframing = "bare"\n')
    done = backfill(made)
    same((done["committed"], done["rejected"], done["missing"], done["blobs"]), (400, 0, 0, 3), "what was taken in of five blobs, two of them empty")
    rows = read("deltalake", table_of(made), ["lead_id", "_sequence_number", "_enqueued_at", "_properties"], ["_properties"])
    found = {row["_sequence_number"]: (row["lead_id"], row["_enqueued_at"], "nothing" in row["_properties"]) for row in rows}
    same(found, expected, "the rows")
    check(all(row["_properties"]["who"] == "Zoë" and row["_properties"]["raw"] == "+/8=" for row in rows), "the properties")
    same(len(rows), 400, "the rows, each once")
    again = backfill(made)
    same((again["received"], again["blobs"]), (0, 0), "a second backfill knows of each blob how far it goes")
    opens_none(made, captures)
    # A blob that is cut off costs its own rest, is named, and is taken in once it is whole.
    torn = captures / "emulator" / HUB / "4" / "2026" / "11" / "25" / "02" / "00" / "00.avro"
    torn.parent.mkdir(parents=True)
    whole = (captures / "emulator" / HUB / "3" / "2026" / "11" / "25" / "01" / "00" / "00.avro").read_bytes()
    torn.write_bytes(whole[: len(whole) * 2 // 3])
    done = backfill(made, expect=1)
    check(0 < done["committed"] < 100 and done["torn_blobs"] == 1, f"of a torn blob: {done}")
    torn.write_bytes(whole)
    same(backfill(made)["committed"] + done["committed"], 100, "the blob once it is whole")
    proof = json.loads(sluice(["--project", made, "audit", f"bronze.{HUB}", "--offline", "--format", "json"]))
    same((proof["complete"], proof["rows"], proof["duplicates"]), (True, 500, 0), "the audit")
    say("  files of both forms, both codecs, empty and torn: every row, each once")


def opens_none(made, captures):
    """Blobs that look the same from outside and are torn for whoever opens them: a second backfill opens none."""
    held = {path: (path.read_bytes(), path.stat()) for path in captures.rglob("*.avro")}

    def change(path, begin):
        with path.open("r+b") as file:
            file.write(begin)
        os.utime(path, ns=(held[path][1].st_atime_ns, held[path][1].st_mtime_ns))

    for path in held:
        change(path, b"torn")
    [index] = (made / "lake" / "_sluice" / "captures").iterdir()
    again = backfill(made)
    same((again["received"], again["blobs"], again["torn_blobs"]), (0, 0, 0), "a backfill with the index of the one before")
    kept = index.read_bytes()
    index.write_bytes(kept[: len(kept) // 2])
    same(backfill(made, expect=1)["torn_blobs"], len(held), "blobs that are opened where the index is torn")
    for path, (whole, _) in held.items():
        change(path, whole[:4])
    same(backfill(made)["received"], 0, "what is taken in, whatever became of the index")


def fill(emulator, sent, partitions=2):
    with encoder(emulator) as avro, producer(emulator, HUB) as client:
        for partition in range(partitions):
            send(client, {"partition_id": str(partition)}, [encoded(avro, event) for event in sent[partition::partitions]])


def captured(captures, count, seconds=60):
    """Until fastavro counts so many events in the blobs; gives (partition, number) of each."""
    deadline = time.monotonic() + seconds
    while True:
        keys = set()
        for path in sorted(captures.rglob("*.avro")):
            with path.open("rb") as file:
                keys |= {(path.relative_to(captures).parts[2], event["SequenceNumber"]) for event in fastavro.reader(file)}
        if len(keys) >= count:
            return keys
        check(time.monotonic() < deadline, f"{len(keys)} of {count} events were captured within {seconds} s")
        time.sleep(0.2)


def capturing(place, *flags):
    captures = place / "captures"
    flags = flags or ("--capture-every", "1s")
    return captures, Emulator({HUB: 2}, "--capture", str(captures), *flags)


def history_then_live(place):
    captures, emulator = capturing(place, "--capture-every", "1s", "--capture-deflate", "--capture-empty")
    with emulator:
        sent = values(6_000, seed=31)
        fill(emulator, sent[:4_000])
        captured(captures, 4_000)
        for partition in range(2):
            emulator.ask("POST", f"/hubs/{HUB}/partitions/{partition}/expire", {"before": 1_500})
        made = project(place / "project", emulator, captures, live='start = "capture"')
        fill(emulator, sent[4_000:])
        done = until_caught_up(made)[HUB]
        same((done["committed"], done["missing"]), (6_000, 0), "history from the captures, the rest from the hub")
        rows = read("deltalake", table_of(made), ["lead_id", "_partition", "_sequence_number", "_origin"])
        same(sorted(row["lead_id"] for row in rows), sorted(event["lead_id"] for event in sent), "the rows")
        for row in rows:
            check((row["_sequence_number"] < 1_500) == (row["_origin"] != "live"), f"{row} came by the wrong path")
        proof = audit(made, f"bronze.{HUB}")
        same((proof["complete"], proof["rows"], proof["missing"]), (True, 6_000, 0), "the audit")
    say("  history from captures, then live from the exact number: no hole, no double")


def from_captures_to_live_under_load(place, seed):
    """The hub takes in events all the while; captures end and live begins at the number that retention left."""
    chance = random.Random(seed)
    captures, emulator = capturing(place)
    with emulator:
        sent = values(9_000, seed=seed)
        fill(emulator, sent[:3_000])
        captured(captures, 3_000)
        left = {str(partition): chance.randrange(1, 1_500) for partition in range(2)}
        for partition, before in left.items():
            emulator.ask("POST", f"/hubs/{HUB}/partitions/{partition}/expire", {"before": before})
        made = project(place / "project", emulator, captures, live='start = "capture"')
        begun = threading.Event()

        def load():
            with encoder(emulator) as avro, producer(emulator, HUB) as client:
                for at in range(3_000, 9_000, 50):
                    if at == 6_000:
                        # However fast it is sent: some of it comes before the first commit, and some after.
                        check(begun.wait(60), "nothing was taken in within 60 s")
                    send(client, {"partition_id": str(at // 50 % 2)}, [encoded(avro, event) for event in sent[at:at + 50]])

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            loaded = pool.submit(load)
            running = Process([binary(), "--project", made, "run"])
            try:
                wait_for(made, lambda rows: rows > 0)
                begun.set()
                loaded.result(120)
                wait_for(made, lambda rows: rows >= 9_000)
                same(running.stop(), 0, "the exit code after SIGTERM")
            finally:
                running.end()
        rows = read("deltalake", table_of(made), ["lead_id", "_partition", "_sequence_number", "_origin"])
        same(sorted(row["lead_id"] for row in rows), sorted(event["lead_id"] for event in sent), "the rows")
        for row in rows:
            check((row["_sequence_number"] < left[row["_partition"]]) == (row["_origin"] != "live"), f"{row} came by the wrong path: {left}")
        proof = audit(made, f"bronze.{HUB}")
        same((proof["complete"], proof["rows"], proof["duplicates"]), (True, 9_000, 0), "the audit")
    say(f"  from captures to live under load, at {left['0']} and {left['1']}: each number once")


def the_bar(place):
    """What somebody sees who watches a backfill: blobs, events, how many a second, how long still."""
    captures, emulator = capturing(place, "--capture-every", "1s", "--capture-bytes", "20KB")
    with emulator:
        fill(emulator, values(6_000, seed=81))
        captured(captures, 6_000)
        made = project(place / "project", emulator, captures)
        terminal, theirs = pty.openpty()
        # Wide enough that nothing is cut off.
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
        child = subprocess.Popen([binary(), "--project", made, "backfill", HUB], stdout=subprocess.DEVNULL, stderr=theirs, stdin=subprocess.DEVNULL)
        os.close(theirs)
        drawn = b""
        with contextlib.suppress(OSError):
            while more := os.read(terminal, 65_536):
                drawn += more
        os.close(terminal)
        same(child.wait(60), 0, "the exit code")
    frames = re.findall(rb"reading captures: ([\d,]+) events, ([\d,]+)/s [^ ]+ +(\d+)/(\d+) blobs, \S+ left", drawn)
    check(frames, f"no frame of the bar in {drawn[-2000:]!r}")
    events, rate, done, of = (int(number.replace(b",", b"")) for number in frames[-1])
    check(0 < events <= 6_000 and rate > 0 and done <= of and of > 10, f"the last frame: {frames[-1]}")
    say(f"  the bar: {events} events, {rate}/s, {done}/{of} blobs in its last of {len(frames)} frames")


def a_hole_heals(place, with_blob):
    captures, emulator = capturing(place, "--capture-every", "1s", "--capture-bytes", "50KB")
    with emulator:
        sent = values(5_000, seed=41)
        fill(emulator, sent[:1_000])
        captured(captures, 1_000)
        made = project(place / "project", emulator, captures)
        same(until_caught_up(made)[HUB]["committed"], 1_000, "what was read before the outage")
        # The reader is away, and retention passes it.
        fill(emulator, sent[1_000:3_000])
        keys = captured(captures, 3_000)
        check(len(keys) == 3_000, "the captures hold more than was sent")
        fill(emulator, sent[3_000:])
        captured(captures, 5_000)
        for partition in range(2):
            emulator.ask("POST", f"/hubs/{HUB}/partitions/{partition}/expire", {"before": 1_400})
        if with_blob:
            done = until_caught_up(made)[HUB]
            same((done["committed"], done["missing"]), (4_000, 0), "the hole and what follows it")
            proof = audit(made, f"bronze.{HUB}")
            same((proof["complete"], proof["rows"], proof["missing"]), (True, 5_000, 0), "the audit")
            say("  a hole that retention left heals from captures by itself")
            return
        gone = lost_blob(captures)
        done = until_caught_up(made)[HUB]
        same(done["missing"], gone[1] - gone[0], "numbers that a run misses")
        proof = audit(made, f"bronze.{HUB}", expect=1)
        holes = {partition["partition"]: partition["ranges"] for partition in proof["partitions"]}
        same(proof["complete"], False, "whether the audit says complete")
        same(holes["1"], [[0, gone[0]], [gone[1], 2_500]], "the ranges that the audit knows of partition 1")
        same(holes["0"], [[0, 2_500]], "the ranges of partition 0")
        check(any(f"{gone[0]} to {gone[1] - 1}" in problem for problem in proof["problems"]), f"the audit doesn't name {gone}: {proof['problems']}")
        # It comes back: the next run finds it.
        gone[2].rename(gone[2].with_suffix(".avro"))
        same(until_caught_up(made)[HUB]["committed"], gone[1] - gone[0], "the blob that came back")
        same(audit(made, f"bronze.{HUB}")["complete"], True, "the audit, once the blob is back")
        say(f"  with the blob of [{gone[0]}, {gone[1]}) removed, audit names exactly that; with it back, it heals")


def lost_blob(captures):
    """Takes the first blob of partition 1 that lies wholly in the hole out of the way: (from, to, path)."""
    for path in sorted((captures / "emulator" / HUB / "1").rglob("*.avro")):
        with path.open("rb") as file:
            numbers = [event["SequenceNumber"] for event in fastavro.reader(file)]
        if numbers and numbers[0] >= 500 and numbers[-1] < 1_400:
            away = path.with_suffix(".away")
            path.rename(away)
            return numbers[0], numbers[-1] + 1, away
    check(False, "no blob lies wholly in the hole")


def a_hole_between_blobs(place):
    """A blob that is lost is told by each backfill, also when all around it has landed; by a pipeline of captures
    alone at its second sweep, since blobs come late."""
    captures, emulator = capturing(place, "--capture-every", "1s", "--capture-bytes", "50KB")
    with emulator:
        fill(emulator, values(2_000, seed=91))
        captured(captures, 2_000)
        made = project(place / "project", emulator, captures)
        gone = with_events(captures / "emulator" / HUB / "0")[1]
        with gone.open("rb") as file:
            count = sum(1 for _ in fastavro.reader(file))
        gone.rename(gone.with_suffix(".away"))
        for attempt in (1, 2, 3):
            same(backfill(made, expect=1)["missing"], count, f"numbers that backfill {attempt} misses")
        file = made / "pipelines" / "outside" / f"{HUB}.toml"
        text = file.read_text()
        begin, end = text.index("[source.event_hubs]"), text.index("[sink]")
        file.write_text(text[:begin] + text[end:].replace("[source.capture]", f'[source.capture]\nhub = "{HUB}"'))
        running = Process([binary(), "--project", made, "run"])
        try:
            deadline = time.monotonic() + 60
            while "nothing that was asked has them" not in running.said(100_000):
                check(time.monotonic() < deadline, f"the hole isn't told\n{running.said()}")
                time.sleep(0.2)
            check("no blob has these numbers yet" in running.said(100_000), "the first sweep should wait for the second")
            gone.with_suffix(".away").rename(gone)
            wait_for(made, lambda rows: rows == 2_000)
            same(running.stop(), 0, "the exit code after SIGTERM")
        finally:
            running.end()
        same(audit(made, f"bronze.{HUB}")["complete"], True, "the audit, once the blob is back")
    say("  a hole between blobs is told each time, and heals when the blob comes")


def a_hub_made_anew_is_noticed(place):
    """Captures alone have no hub to ask: numbers that begin again are noticed in the blobs, and stop it."""
    captures = place / "captures"
    for folder_name, day, first in (("00", 20, 0), ("01", 20, 50), ("02", 24, 0)):
        path = captures / "emulator" / HUB / "0" / "2026" / "11" / str(day) / folder_name / "00" / "00.avro"
        path.parent.mkdir(parents=True)
        at = datetime.datetime(2026, 11, day, int(folder_name), 1, tzinfo=datetime.timezone.utc)
        records = [{
            "SequenceNumber": number, "Offset": "0", "EnqueuedTimeUtc": "", "Properties": {}, "Body": b"x",
            "SystemProperties": {"x-opt-enqueued-time": int(at.timestamp() * 1000) + number},
        } for number in range(first, first + 50)]
        with path.open("wb") as file:
            fastavro.writer(file, fastavro.parse_schema(json.loads(json.dumps(EVENT_DATA))), records)
    with Emulator({HUB: 1}) as emulator:
        made = project(place / "project", emulator, captures, decode='[decode]\nformat = "raw"\n')
        _, said = sluice(["--project", made, "backfill", HUB, "--format", "json"], expect=1)
        check("[source] generation" in said, f"the error doesn't say how to declare a `generation`:\n{said}")
        made = project(place / "project", emulator, captures, source='[source]\ngeneration = { name = "2", since = 2026-11-23T00:00:00Z }', decode='[decode]\nformat = "raw"\n')
        same(backfill(made)["committed"], 150, "events of both generations, once that is declared")
    say("  captures of a hub that counts anew: stopped, with an error that names `generation`")


def rejects_alone_in_a_small_budget(place, emulator):
    """Coverage without rows is committed rarely; not so when it holds the memory that the next batch waits for."""
    captures = place / "captures"
    for minute, (first, count) in enumerate([(0, 60), (60, 270), (330, 200)]):
        path = captures / "emulator" / HUB / "0" / "2026" / "11" / "25" / "01" / f"{minute:02}" / "00.avro"
        path.parent.mkdir(parents=True)
        records = [record(number, values(1)[0])[1] | {"Body": b"no datum"} for number in range(first, first + count)]
        with path.open("wb") as file:
            fastavro.writer(file, fastavro.parse_schema(json.loads(json.dumps(EVENT_DATA))), records)
    (place / "project" / "schemas").mkdir(parents=True)
    (place / "project" / "schemas" / "lead.avsc").write_text(json.dumps(SCHEMA))
    made = project(place / "project", emulator, captures, decode='[decode]\nschema = "schemas/lead.avsc"\nframing = "bare"\n')
    file = made / "pipelines" / "outside" / f"{HUB}.toml"
    file.write_text(file.read_text().replace('commit_every = "1s"', 'max_in_flight_bytes = "100KiB"'))
    out = json.loads(sluice(["--project", made, "backfill", HUB, "--format", "json"], seconds=60))["pipelines"][0]
    same((out["rejected"], out["committed"]), (530, 0), "of events that are no datums")
    say("  rejects alone in a small budget: no waiting for one another")


def captures_alone(place):
    """A pipeline that asks no hub: the emulator's hubs are gone when it runs."""
    captures, emulator = capturing(place, "--capture-every", "1s", "--capture-bytes", "50KB", "--capture-empty")
    sent = values(3_000, seed=71)
    with emulator:
        fill(emulator, sent)
        captured(captures, 3_000)
        made = project(place / "project", emulator, captures, decode='[decode]\nschema = "schemas/lead.avsc"\nframing = "bare"\n')
    (made / "schemas").mkdir()
    (made / "schemas" / "lead.avsc").write_text(json.dumps(SCHEMA))
    file = made / "pipelines" / "outside" / f"{HUB}.toml"
    text = file.read_text()
    begin, end = text.index("[source.event_hubs]"), text.index("[sink]")
    file.write_text(text[:begin] + text[end:].replace("[source.capture]", f'[source.capture]\nhub = "{HUB}"'))
    # The last blob of each partition is held back, and comes while the pipeline runs.
    late = [sorted(folder.rglob("*.avro"))[-1] for folder in sorted((captures / "emulator" / HUB).iterdir())]
    late += [path for folder in sorted((captures / "emulator" / HUB).iterdir()) for path in with_events(folder)[2:3]]
    for path in late:
        path.rename(path.with_suffix(".late"))
    running = Process([binary(), "--project", made, "run"])
    try:
        wait_for(made, lambda rows: 0 < rows < 3_000)
        for path in late:
            path.with_suffix(".late").rename(path)
        wait_for(made, lambda rows: rows == 3_000)
        same(running.stop(), 0, "the exit code after SIGTERM")
    finally:
        running.end()
    same(until_caught_up(made)[HUB]["committed"], 0, "what a second run finds")
    proof = audit(made, f"bronze.{HUB}")
    same((proof["complete"], proof["rows"], proof["missing"]), (True, 3_000, 0), "the audit")
    say("  captures alone, without a hub: late blobs are found by the next sweep")


def with_events(folder):
    found = []
    for path in sorted(folder.rglob("*.avro")):
        with path.open("rb") as file:
            if next(iter(fastavro.reader(file)), None) is not None:
                found.append(path)
    return found


def wait_for(project, holds, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        rows = 0
        with contextlib.suppress(Exception):
            rows = len(read("deltalake", table_of(project), ["_sequence_number"]))
        if holds(rows):
            return
        check(time.monotonic() < deadline, f"{rows} rows after {seconds} s")
        time.sleep(0.2)


def old_blobs_of_a_hub_made_anew(place):
    captures, emulator = capturing(place)
    with emulator:
        old, new = values(600, seed=51), values(800, seed=52)
        for event in new:
            event["lead_id"] = "new-" + event["lead_id"]
        fill(emulator, old)
        captured(captures, 600)
        time.sleep(0.01)
        since = datetime.datetime.now(datetime.timezone.utc)
        emulator.ask("POST", f"/hubs/{HUB}/remake")
        fill(emulator, new)
        deadline = time.monotonic() + 60
        while sum(1 for path in captures.rglob("*.avro") for _ in fastavro.reader(path.open("rb"))) < 1_400:
            check(time.monotonic() < deadline, "the hub made anew isn't captured")
            time.sleep(0.2)
        stamp = since.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        made = project(place / "project", emulator, captures, source=f'[source]\ngeneration = {{ name = "2", since = {stamp} }}')
        same(backfill(made)["committed"], 1_400, "events of both generations")
        rows = read("deltalake", table_of(made), ["lead_id", "_source"])
        expected = {(f"emulator/{HUB}", event["lead_id"]) for event in old} | {(f"emulator/{HUB}@2", event["lead_id"]) for event in new}
        same({(row["_source"], row["lead_id"]) for row in rows}, expected, "rows by generation")
        same(len(rows), 1_400, "rows in all")
    say("  old blobs of a hub that was made anew belong to the generation before")


def a_new_generation_begins_with_its_captures(place):
    """`start = "capture"` is meant for each generation, also where the ledger knows the one before."""
    captures, emulator = capturing(place)
    with emulator:
        old, new = values(400, seed=53), values(1_000, seed=54)
        fill(emulator, old)
        made = project(place / "project", emulator, captures, live='start = "capture"')
        same(until_caught_up(made)[HUB]["committed"], 400, "events of the first hub")
        captured(captures, 400)
        time.sleep(0.01)
        since = datetime.datetime.now(datetime.timezone.utc)
        emulator.ask("POST", f"/hubs/{HUB}/remake")
        fill(emulator, new)
        deadline = time.monotonic() + 60
        while sum(1 for path in captures.rglob("*.avro") for _ in fastavro.reader(path.open("rb"))) < 1_400:
            check(time.monotonic() < deadline, "the hub made anew isn't captured")
            time.sleep(0.2)
        for partition in range(2):
            emulator.ask("POST", f"/hubs/{HUB}/partitions/{partition}/expire", {"before": 300})
        stamp = since.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        made = project(place / "project", emulator, captures, live='start = "capture"', source=f'[source]\ngeneration = {{ name = "2", since = {stamp} }}')
        done = until_caught_up(made)[HUB]
        same((done["committed"], done["missing"]), (1_000, 0), "events of the hub made anew, those that retention took among them")
        proof = audit(made, f"bronze.{HUB}")
        same((proof["complete"], proof["rows"]), (True, 1_400), "the audit of both generations")
    say("  a new generation begins with its captures")


def both_paths_at_once(place, kills):
    """Live and overlapping backfills on one table, killed at random; in the end each number is there once."""
    chance = random.Random(kills)
    captures, emulator = capturing(place, "--capture-every", "1s", "--capture-bytes", "100KB")
    with emulator:
        sent = values(12_000, seed=61)
        # The live path is held back, so that each path wins some of the races.
        made = project(place / "project", emulator, captures, live='start = "earliest"\nmax_events_per_second = 1000')
        live = Process([binary(), "--project", made, "run"])
        fill(emulator, sent[:3_000])
        for kill in range(kills):
            begun = time.monotonic()
            share = sent[3_000 + kill * 9_000 // kills : 3_000 + (kill + 1) * 9_000 // kills]
            history = Process([binary(), "--project", made, "backfill", HUB])
            fill(emulator, share)
            time.sleep(chance.uniform(0.05, 1.0))
            victim = live if kill % 2 else history
            victim.end()
            if kill % 2:
                live = Process([binary(), "--project", made, "run"])
            else:
                history = Process([binary(), "--project", made, "backfill", HUB])
            history.ended(60)
            say(f"  kill {kill + 1} of {kills}: {'live' if kill % 2 else 'backfill'}, {time.monotonic() - begun:.1f} s")
        keys = captured(captures, 12_000)
        same(live.stop(), 0, "the exit code of the live path")
        until_caught_up(made)
        backfill(made)
        rows = read("deltalake", table_of(made), ["lead_id", "_partition", "_sequence_number", "_origin"])
        same(len(rows), len(sent), "rows")
        same({(row["_partition"], row["_sequence_number"]) for row in rows}, keys, "the keys, as fastavro counts them")
        same(sorted(row["lead_id"] for row in rows), sorted(event["lead_id"] for event in sent), "the rows")
        paths = {"live" if row["_origin"] == "live" else "capture" for row in rows}
        proof = audit(made, f"bronze.{HUB}")
        same((proof["complete"], proof["rows"], proof["missing"], proof["duplicates"]), (True, len(sent), 0, 0), "the audit")
        same(paths, {"live", "capture"}, "the paths that rows came by")
        by_live = sum(1 for row in rows if row["_origin"] == "live")
        say(f"  both paths at once, {kills} kills: {len(rows)} rows, each once; {by_live} came live, {len(rows) - by_live} by captures")


def run():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--kills", type=int, default=5)
    arguments.add_argument("--handovers", type=int, default=3)
    options = arguments.parse_args()
    with folder() as place, Emulator({HUB: 1}) as emulator:
        the_real_file(place / "a", emulator)
        files_of_either_form(place / "b", emulator)
        rejects_alone_in_a_small_budget(place / "l", emulator)
        history_then_live(place / "c")
        for handover in range(options.handovers):
            from_captures_to_live_under_load(place / f"m{handover}", seed=200 + handover)
        the_bar(place / "n")
        a_hole_heals(place / "d", with_blob=True)
        a_hole_heals(place / "e", with_blob=False)
        captures_alone(place / "h")
        a_hole_between_blobs(place / "i")
        a_hub_made_anew_is_noticed(place / "j")
        a_new_generation_begins_with_its_captures(place / "k")
        old_blobs_of_a_hub_made_anew(place / "f")
        both_paths_at_once(place / "g", options.kills)


if __name__ == "__main__":
    main(run)
