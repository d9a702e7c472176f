"""50,000 events by the official client and encoder, to 4 partitions, in batches and by keys; `sluice run`
lands them; three readers find every value, in a folder and on Azurite; `sluice audit` agrees.

    fifty_thousand.py [--events N]
"""

import argparse
import math
import time

import deltalake

from events import COLUMNS, MAPS, send_values, values
from machine import AZURITE_ACCOUNT, AZURITE_KEY, Azurite, Emulator, audit, check, folder, main, same, say, until_caught_up, write_project
from readers import READERS, mirror, read

HUB = "leads"
PARTITIONS = 4
POSITION = ["_partition", "_sequence_number", "_record_index", "_source"]


def equal(found, expected):
    if isinstance(expected, float):
        # The sign of zero counts too.
        return isinstance(found, float) and found == expected and math.copysign(1, found) == math.copysign(1, expected)
    if isinstance(expected, dict):
        return isinstance(found, dict) and found.keys() == expected.keys() and all(equal(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(equal, found, expected))
    return type(found) is type(expected) and found == expected


def compare(reader, where, rows, sent, placed):
    by_id = {row["lead_id"]: row for row in rows}
    same(len(rows), len(sent), f"rows that {reader} finds {where}")
    same(len(by_id), len(sent), f"ids that {reader} finds {where}")
    for event in sent:
        row = by_id[event["lead_id"]]
        for column in COLUMNS:
            check(
                equal(row[column], event[column]),
                f"{reader} {where}: `{column}` of {event['lead_id']} is {row[column]!r}, sent was {event[column]!r}",
            )
    numbers = {}
    for row in rows:
        numbers.setdefault(row["_partition"], []).append(row["_sequence_number"])
        same(row["_record_index"], 0, f"_record_index that {reader} finds {where}")
        same(row["_source"], f"emulator/{HUB}", f"_source that {reader} finds {where}")
    for partition, found in numbers.items():
        same(sorted(found), list(range(len(found))), f"numbers of partition {partition} that {reader} finds {where}")
    # What was sent to a partition by name came first there, in the order it was sent in.
    for partition, ids in placed.items():
        at = {row["lead_id"]: row["_sequence_number"] for row in rows if row["_partition"] == partition}
        same([at.get(its) for its in ids], list(range(len(ids))), f"order in partition {partition} that {reader} finds {where}")


def settle(project, sent, partitions):
    started = time.monotonic()
    report = until_caught_up(project)[HUB]
    say(f"  sluice run: {len(sent)} events in {time.monotonic() - started:.1f} s, {report['commits']} commits")
    for field, expected in [("received", len(sent)), ("committed", len(sent)), ("rejected", 0), ("filtered", 0), ("duplicate", 0)]:
        same(report[field], expected, f"`{field}` of the run")
    proof = audit(project, f"bronze.{HUB}")
    check(proof["complete"], f"audit: {proof}")
    same((proof["rows"], proof["rejected"], proof["duplicates"], proof["missing"]), (len(sent), 0, 0, 0), "the audit")
    same(len(proof["partitions"]), partitions, "partitions in the audit")
    again = until_caught_up(project)[HUB]
    same((again["received"], again["committed"]), (0, 0), "what a second run takes in")


def run():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--events", type=int, default=50_000)
    count = arguments.parse_args().events
    sent = values(count)
    with folder() as place, Emulator({HUB: PARTITIONS}) as emulator, Azurite() as azurite:
        started = time.monotonic()
        placed = send_values(emulator, HUB, sent, PARTITIONS)
        say(f"  {count} events sent in {time.monotonic() - started:.1f} s")

        project = write_project(place / "local", emulator, {HUB: 'start = "earliest"'})
        settle(project, sent, PARTITIONS)
        table = str(project / "lake" / "bronze" / HUB)
        protocol = deltalake.DeltaTable(table).protocol()
        same((protocol.min_reader_version, protocol.min_writer_version), (1, 2), "the table's protocol")
        for reader in READERS:
            compare(reader, "in a folder", read(reader, table, COLUMNS + POSITION, MAPS), sent, placed)
            say(f"  {reader}: every value, in a folder")

        azurite.container("lake")
        storage = f"""
[storage.azure]
account_name = "{AZURITE_ACCOUNT}"
account_key  = "{AZURITE_KEY}"
endpoint     = "{azurite.endpoint}"
"""
        project = write_project(place / "azurite", emulator, {HUB: 'start = "earliest"'}, lake="az://lake", storage=storage)
        settle(project, sent, PARTITIONS)
        for reader in READERS:
            if reader == "duckdb":
                local = str(mirror(azurite, "lake", f"bronze/{HUB}", place / "mirror"))
                rows = read(reader, local, COLUMNS + POSITION, MAPS)
            else:
                rows = read(reader, f"az://lake/bronze/{HUB}", COLUMNS + POSITION, MAPS, azurite.storage_options())
            compare(reader, "on Azurite", rows, sent, placed)
            say(f"  {reader}: every value, on Azurite")


if __name__ == "__main__":
    main(run)
