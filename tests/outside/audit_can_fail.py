"""An audit that couldn't fail would prove nothing: a stranger deletes a row, writes one twice, removes a
dead letter; each time `sluice audit` ends with 1 and names exactly that number.

The stranger is Python `deltalake`. It has to lift `delta.appendOnly` first, and that alone must not
stop a pipeline.
"""

import shutil

import deltalake
import pyarrow

from events import encoded, encoder, producer, send, values
from machine import Emulator, audit, check, folder, main, same, say, until_caught_up, write_project

HUB = "leads"
PARTITIONS = 2
EVENTS = 400
# A partition and the number in it of the event that nobody can decode.
BAD = ("1", 57)


def fill(emulator):
    from azure.eventhub import EventData

    sent = values(EVENTS)
    with encoder(emulator) as avro, producer(emulator, HUB) as client:
        for partition in range(PARTITIONS):
            events = [encoded(avro, event) for event in sent[partition::PARTITIONS]]
            if str(partition) == BAD[0]:
                bad = EventData(b"\xff\xff\xff not a datum")
                bad.content_type = events[0].content_type
                events.insert(BAD[1], bad)
            send(client, {"partition_id": str(partition)}, events)


def numbers_of(ranges):
    return [number for first, end in ranges for number in range(first, end)]


def named(proof, field):
    """Every (partition, number) that the audit names in a field of ranges."""
    return [(partition["partition"], number) for partition in proof["partitions"] for number in numbers_of(partition[field])]


def copied(project, place, name):
    """A copy to be spoiled, so that each case begins with a table that is complete."""
    copy = place / name
    shutil.copytree(project, copy)
    same(audit(copy, f"bronze.{HUB}")["complete"], True, "the audit of an untouched copy")
    return copy


def lifted(table):
    table = deltalake.DeltaTable(str(table))
    if table.metadata().configuration.get("delta.appendOnly") == "true":
        table.alter.set_table_properties({"delta.appendOnly": "false"})
    return deltalake.DeltaTable(table.table_uri)


def a_deleted_row(project, place):
    copy = copied(project, place, "deleted")
    table = lifted(copy / "lake" / "bronze" / HUB)
    gone = table.delete("_partition = '0' AND _sequence_number = 42")
    same(gone["num_deleted_rows"], 1, "rows that the stranger deleted")
    proof = audit(copy, f"bronze.{HUB}", expect=1)
    check(not proof["complete"], "a row is gone, and the audit says complete")
    same(named(proof, "missing"), [("0", 42)], "missing numbers")
    same((proof["missing"], proof["duplicates"]), (1, 0), "counts of the audit")


def a_row_twice(project, place):
    copy = copied(project, place, "twice")
    table = lifted(copy / "lake" / "bronze" / HUB)
    row = table.to_pyarrow_table(filters=[("_partition", "=", "1"), ("_sequence_number", "=", 7)])
    same(row.num_rows, 1, "rows with this number")
    deltalake.write_deltalake(table, row, mode="append")
    proof = audit(copy, f"bronze.{HUB}", expect=1)
    check(not proof["complete"], "a row is there twice, and the audit says complete")
    same((proof["missing"], proof["duplicates"]), (0, 1), "counts of the audit")
    twice = [(partition["partition"], number) for partition in proof["partitions"] for number in partition["duplicate_numbers"]]
    same(twice, [("1", 7)], "numbers that are there twice")


def a_dead_letter_removed(project, place):
    copy = copied(project, place, "dead-letter")
    table = lifted(copy / "lake" / "bronze" / f"{HUB}__dead_letters")
    gone = table.delete(f"_partition = '{BAD[0]}' AND _sequence_number = {BAD[1]}")
    same(gone["num_deleted_rows"], 1, "dead letters that the stranger removed")
    proof = audit(copy, f"bronze.{HUB}", expect=1)
    check(not proof["complete"], "a dead letter is gone, and the audit says complete")
    same(named(proof, "missing"), [BAD], "missing numbers")


def goes_on_without_append_only(project, emulator):
    """The property alone stops nothing: the pipeline takes in what comes next."""
    lifted(project / "lake" / "bronze" / HUB)
    with encoder(emulator) as avro, producer(emulator, HUB) as client:
        send(client, {"partition_id": "0"}, [encoded(avro, event) for event in values(10, seed=2)])
    same(until_caught_up(project)[HUB]["committed"], 10, "events after delta.appendOnly was lifted")
    proof = audit(project, f"bronze.{HUB}")
    same((proof["complete"], proof["rows"], proof["rejected"]), (True, EVENTS + 10, 1), "the audit after that")


def run():
    with folder() as place, Emulator({HUB: PARTITIONS}) as emulator:
        fill(emulator)
        project = write_project(place / "project", emulator, {HUB: 'start = "earliest"'})
        report = until_caught_up(project)[HUB]
        same((report["committed"], report["rejected"]), (EVENTS, 1), "rows and rejects of the run")
        proof = audit(project, f"bronze.{HUB}")
        same((proof["complete"], proof["rows"], proof["rejected"]), (True, EVENTS, 1), "the audit before any harm")
        for case in (a_deleted_row, a_row_twice, a_dead_letter_removed):
            case(project, place)
            say(f"  {case.__name__}: found, by its number")
        goes_on_without_append_only(project, emulator)


if __name__ == "__main__":
    main(run)
