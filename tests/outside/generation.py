"""A hub made anew counts again from 0. Filled past the old end while the reader was down, it looks as if
nothing had happened, and going on would lose events without a word. `sluice run` stops with an error
that names `generation`; with the generation declared it goes on, and the table has both.
"""

import datetime
import re
import time

from events import encoded, encoder, producer, send, values
from machine import Emulator, audit, check, folder, main, run as sluice, same, say, until_caught_up, write_project
from readers import read

HUB = "leads"
PARTITIONS = 2
OLD, NEW = 300, 500


def fill(emulator, sent):
    with encoder(emulator) as avro, producer(emulator, HUB) as client:
        for partition in range(PARTITIONS):
            send(client, {"partition_id": str(partition)}, [encoded(avro, event) for event in sent[partition::PARTITIONS]])


def run():
    with folder() as place, Emulator({HUB: PARTITIONS}) as emulator:
        old, new = values(OLD, seed=3), values(NEW, seed=4)
        for event in new:
            event["lead_id"] = "new-" + event["lead_id"]
        fill(emulator, old)
        project = write_project(place / "project", emulator, {HUB: 'start = "earliest"'})
        same(until_caught_up(project)[HUB]["committed"], OLD, "events of the first hub")

        time.sleep(0.01)
        since = datetime.datetime.now(datetime.timezone.utc)
        emulator.ask("POST", f"/hubs/{HUB}/remake")
        fill(emulator, new)
        for partition in range(PARTITIONS):
            end = emulator.ask("GET", f"/hubs/{HUB}/partitions/{partition}")["last_sequence_number"]
            check(end > OLD // PARTITIONS, "the new hub must be past the old end, or this checks nothing")

        for attempt in (1, 2):
            _, said = sluice(["--project", project, "run", "--until-caught-up", "--format", "json"], expect=1)
            check(re.search(r"\[source\] generation", said), f"try {attempt}: the error doesn't say how to declare a `generation`:\n{said}")
        table = str(project / "lake" / "bronze" / HUB)
        same(len(read("deltalake", table, ["lead_id"])), OLD, "rows after the stop: none of the new hub's")
        say("  stopped, with an error that names `generation`")

        stamp = since.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        write_project(place / "project", emulator, {HUB: 'start = "earliest"'}, source=f'[source]\ngeneration = {{ name = "2", since = {stamp} }}')
        same(until_caught_up(project)[HUB]["committed"], NEW, "events of the hub made anew")
        rows = read("deltalake", table, ["lead_id", "_source", "_partition", "_sequence_number"])
        expected = {(f"emulator/{HUB}", event["lead_id"]) for event in old} | {(f"emulator/{HUB}@2", event["lead_id"]) for event in new}
        same({(row["_source"], row["lead_id"]) for row in rows}, expected, "rows by generation")
        same(len(rows), OLD + NEW, "rows in all")
        proof = audit(project, f"bronze.{HUB}")
        same((proof["complete"], proof["rows"], proof["missing"]), (True, OLD + NEW, 0), "the audit of both generations")
        same(until_caught_up(project)[HUB]["received"], 0, "what the next run takes in")


if __name__ == "__main__":
    main(run)
