"""What fails around a pipeline costs time and nothing else: a disk that takes no more, a registry that is
down, one that doesn't answer while the process is told to end. Afterwards each event is there once.
"""

import re
import resource
import signal
import socket
import time

from events import encoded, encoder, producer, send, values
from machine import Emulator, Process, audit, check, folder, main, same, say, sluice, until_caught_up, write_project
from readers import read

HUB = "leads"
EVENTS = 4_000
# Too small for the data file of 4,000 leads, enough for an entry of the log.
FILE_BYTES = 32 * 1024


def fill(emulator, sent):
    with encoder(emulator) as avro, producer(emulator, HUB) as client:
        send(client, {"partition_id": "0"}, [encoded(avro, event) for event in sent])


def project_of(place, emulator):
    return write_project(place, emulator, {HUB: 'start = "earliest"'})


def complete(project, sent):
    table = str(project / "lake" / "bronze" / HUB)
    rows = read("deltalake", table, ["lead_id"])
    same(sorted(row["lead_id"] for row in rows), sorted(event["lead_id"] for event in sent), "the rows")
    proof = audit(project, f"bronze.{HUB}")
    same((proof["complete"], proof["rows"], proof["missing"], proof["duplicates"]), (True, len(sent), 0, 0), "the audit")


def small_files():
    """As on a full disk, a write beyond the bound fails; Python ignores the signal that comes with it."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))


def a_disk_that_takes_no_more(place, emulator, sent):
    project = project_of(place / "disk", emulator)
    process = Process([sluice(), "--project", project, "run", "--until-caught-up", "--format", "json"], before=small_files)
    same(process.ended(120), 3, f"the exit code while no file can be written\n{process.said()}")
    check(re.search(rf"table `?bronze\.{HUB}`?", process.said()), f"the error doesn't name the table:\n{process.said()}")
    same(until_caught_up(project)[HUB]["committed"], len(sent), "committed once there is room")
    complete(project, sent)
    say("  a disk that takes no more: exit code 3, and each event once when there is room again")


def a_registry_that_is_down(place, emulator, sent):
    project = project_of(place / "down", emulator)
    emulator.ask("POST", "/registry/fail", {"times": 3, "status": 503})
    found = until_caught_up(project)[HUB]
    same((found["committed"], found["rejected"]), (len(sent), 0), "after three answers of 503: rows, no dead letters")
    complete(project, sent)
    say("  a registry that is down: the partition waits, and nothing becomes a dead letter")


def a_registry_that_never_knew(place, emulator, sent):
    project = project_of(place / "unknown", emulator)
    emulator.ask("POST", "/registry/fail", {"times": 1000, "status": 404})
    found = until_caught_up(project)[HUB]
    emulator.ask("DELETE", "/faults")
    same((found["committed"], found["rejected"]), (0, len(sent)), "after a 404: dead letters")
    proof = audit(project, f"bronze.{HUB}")
    same((proof["complete"], proof["rows"], proof["rejected"]), (True, 0, len(sent)), "the audit")
    say("  a registry that never knew the schema: dead letters, each accounted for")


def a_registry_that_hangs_at_the_end(place, emulator, sent):
    project = project_of(place / "hangs", emulator)
    emulator.ask("POST", "/registry/fail", {"times": 1000, "delay": "300s"})
    process = Process([sluice(), "--project", project, "run"])
    deadline = time.monotonic() + 60
    while not served(emulator):
        check(time.monotonic() < deadline, f"nobody asks the registry\n{process.said()}")
        time.sleep(0.05)
    same(process.stop(), 0, "the exit code after SIGTERM while the registry hangs")
    check("readers that hang are dropped" in process.said(), f"the log doesn't say what was dropped:\n{process.said()}")
    emulator.ask("DELETE", "/faults")
    same(until_caught_up(project)[HUB]["committed"], len(sent), "committed once the registry answers")
    complete(project, sent)
    say("  a registry that hangs: the process ends when it is told to, and nothing is lost")


def a_queue_that_hangs_at_the_end(place, emulator, sent):
    """Connections are taken, and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        project = project_of(place / "queue", emulator)
        file = project / "pipelines" / "outside" / f"{HUB}.toml"
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/devstoreaccount1/captures"
        (place / "captures").mkdir()
        file.write_text(file.read_text() + f'\n[source.capture]\nurl = "{place / "captures"}"\nqueue = "{address}"\n')
        sluice_toml = project / "sluice.toml"
        sluice_toml.write_text(sluice_toml.read_text() + '\n[storage.azure]\naccount_name = "devstoreaccount1"\naccount_key = "c2VjcmV0"\n')
        process = Process([sluice(), "--project", project, "run"])
        try:
            silent.settimeout(60)
            connection, _ = silent.accept()
            with connection:
                same(process.stop(), 0, "the exit code after SIGTERM while the queue hangs")
        finally:
            process.end()
    say("  a queue that hangs: the process ends when it is told to")


def served(emulator):
    faults = emulator.ask("GET", "/faults")["registry"]
    return any(fault["times"] < 1000 for fault in faults)


def run():
    sent = values(EVENTS, seed=11)
    with folder() as place, Emulator({HUB: 1}) as emulator:
        fill(emulator, sent)
        for outage in (a_disk_that_takes_no_more, a_registry_that_is_down, a_registry_that_never_knew, a_registry_that_hangs_at_the_end, a_queue_that_hangs_at_the_end):
            outage(place, emulator, sent)


if __name__ == "__main__":
    main(run)
