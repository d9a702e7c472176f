"""A table of 5,000 small commits, and what `sluice maintain` makes of it beside a pipeline that goes on.

    maintain.py [--commits N]

Before and after: the same rows, by DuckDB and by `deltalake`; few files a partition; what a reader of the
log's new rows sees is each row once. Then time passes (the files' times are set back): vacuum and log cleanup
leave what a stream has not read, and audit stays complete. Last, a lake on Azurite, with a leader that died.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import random
import signal
import time
import uuid

import deltalake
import pyarrow
import pyarrow.parquet

from events import encoded, encoder, producer, send, values
from machine import Azurite, Emulator, Process, audit, check, folder, main, run as sluice, same, say, sluice as binary, until_caught_up, write_project
from readers import duckdb_connection

HUB = "leads"
TABLE = f"bronze.{HUB}"
DAY = 24 * 60 * 60
OLD = "silver.old_events"
# Two streams of the events: one appends each, one keeps the last of each lead, and so rewrites files all the time.
TRANSFORMS = """
[[transform]]
table = "silver.events"
owner = "outside"
sql   = "sql/events.sql"
mode  = "append"
every = "200ms"

[[transform]]
table       = "silver.last"
owner       = "outside"
sql         = "sql/events.sql"
mode        = "merge"
keys        = ["lead_id"]
sequence_by = ["number", "part"]
every       = "200ms"
"""
SQL = "SELECT lead_id, _partition AS part, _sequence_number AS number FROM STREAM(bronze.leads)\n"


def maintain(project, *arguments, expect=0):
    out = sluice(["--project", project, "maintain", "--format", "json", *arguments], expect=expect)
    return {table["table"]: table for table in json.loads(out[0] if expect else out)["tables"]}


def table_of(project, table=TABLE):
    return project / "lake" / table.replace(".", "/")


def commit(table, version, actions):
    """A commit as anybody may write it; an existing one is never touched."""
    path = table / "_delta_log" / f"{version:020}.json"
    with path.open("x") as file:
        file.writelines(json.dumps(action) + "\n" for action in actions)


def small_commits(table, commits, days=4):
    """A table that somebody else's program filled, a row and a file a commit."""
    (table / "_delta_log").mkdir(parents=True)
    columns = [("id", "long"), ("day", "string"), ("text", "string")]
    fields = [{"name": name, "type": kind, "nullable": True, "metadata": {}} for name, kind in columns]
    commit(table, 0, [
        {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}},
        {"metaData": {
            "id": str(uuid.uuid4()), "format": {"provider": "parquet", "options": {}}, "partitionColumns": ["day"],
            "schemaString": json.dumps({"type": "struct", "fields": fields}), "configuration": {}, "createdTime": 0,
        }},
    ])
    schema = pyarrow.schema([("id", pyarrow.int64()), ("text", pyarrow.string())])
    now = int(time.time() * 1000)
    for number in range(commits):
        # A day with a character that paths don't have as it is.
        day = f"2026-01-0{1 + number % days} x"
        (table / f"day={day}").mkdir(exist_ok=True)
        name = f"part-{number:05}-{uuid.uuid4()}.parquet"
        rows = pyarrow.table({"id": [number], "text": [f"row {number}" if number % 7 else None]}, schema=schema)
        pyarrow.parquet.write_table(rows, table / f"day={day}" / name)
        size = (table / f"day={day}" / name).stat().st_size
        # Some writers give no statistics.
        stats = json.dumps({"numRecords": 1}) if number % 1_000 else None
        commit(table, number + 1, [
            {"add": {"path": f"day={day.replace(' ', '%20')}/{name}", "partitionValues": {"day": day}, "size": size,
                     "modificationTime": now + number, "dataChange": True, **({"stats": stats} if stats else {})}},
            {"commitInfo": {"timestamp": now + number, "operation": "WRITE"}},
        ])


def by_deltalake(table, columns, order, options=None):
    rows = deltalake.DeltaTable(str(table), storage_options=options).to_pyarrow_table(columns=columns)
    return rows.sort_by([(column, "ascending") for column in order]).to_pylist()


def by_duckdb(table, columns, order):
    listed, ordered = ", ".join(columns), ", ".join(order)
    rows = duckdb_connection().execute(f"SELECT {listed} FROM delta_scan('{table}') ORDER BY {ordered}").fetch_arrow_table()
    return rows.to_pylist()


def same_rows(table, columns, order, expected, when):
    for reader in (by_deltalake, by_duckdb):
        found = reader(table, columns, order)
        same(len(found), len(expected), f"rows by {reader.__name__} {when}")
        check(found == expected, f"the rows by {reader.__name__} {when} differ")


def active(table, options=None):
    return deltalake.DeltaTable(str(table), storage_options=options).file_uris()


def age(table, days):
    then = time.time() - days * DAY
    for path in table.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def new_rows(table, after, until):
    """What somebody who reads new rows from the log sees of these versions: the ids, one for each time."""
    ids = []
    for version in range(after + 1, until + 1):
        for line in (table / "_delta_log" / f"{version:020}.json").read_text().splitlines():
            add = json.loads(line).get("add")
            if add and add["dataChange"]:
                path = table / add["path"].replace("%20", " ")
                ids += pyarrow.parquet.read_table(path, columns=["_partition", "_sequence_number"]).to_pylist()
    return [(row["_partition"], row["_sequence_number"]) for row in ids]


def head(table):
    return deltalake.DeltaTable(str(table)).version()


def reads(project, consumed):
    """A table that says how far it has read the events."""
    table = table_of(project, "silver.reader")
    of = deltalake.DeltaTable(str(table_of(project))).metadata().id
    transaction = {"txn": {"appId": f"sluice-consumed:1:{of}", "version": consumed}}
    if not table.exists():
        deltalake.DeltaTable.create(str(table), schema=pyarrow.schema([("id", pyarrow.int64())]))
    commit(table, head(table) + 1, [transaction])


def someone_elses_table(project, commits):
    table = table_of(project, OLD)
    started = time.monotonic()
    small_commits(table, commits)
    say(f"  {commits} commits made in {time.monotonic() - started:.1f} s")
    columns, order = ["id", "day", "text"], ["id"]
    expected = by_deltalake(table, columns, order)
    same(len(expected), commits, "rows before")
    dry = maintain(project, OLD, "--dry-run")[OLD]
    same(len(active(table)), commits, "files after a dry run")
    started = time.monotonic()
    done = maintain(project, OLD)[OLD]
    say(f"  {done['files_before']} files to {done['files_after']} in {time.monotonic() - started:.1f} s")
    same((done["files_before"], done["outcome"]), (commits, "done"), "what is said of the files before")
    same((dry["files_after"], done["files_after"], len(active(table))), (4, 4, 4), "a file for each of four days")
    same(done["checkpoint"], done["version"], "the version of the checkpoint")
    same_rows(table, columns, order, expected, "after")
    check((table / "_delta_log" / f"{done['version']:020}.checkpoint.parquet").exists(), "a checkpoint lies in the log")
    again = maintain(project, OLD)[OLD]
    same((again["compacted_files"], again["checkpoint"], again["vacuumed_files"]), (0, None, 0), "what a second run finds to do")
    age(table, 31)
    done = maintain(project, OLD)[OLD]
    same(done["vacuumed_files"], commits, "files that nothing names")
    check(done["log_entries_removed"] > commits - 100, f"{done['log_entries_removed']} entries of the log were removed")
    same(sum(1 for path in table.glob("day=*/*.parquet")), 4, "files that are left")
    same_rows(table, columns, order, expected, "after vacuum and log cleanup")
    check(len(list((table / "_delta_log").glob("*.json"))) < 100, "the log is short")


class Sending:
    """One client for all that is sent; events of both partitions in turn."""

    def __init__(self, emulator):
        self.open = contextlib.ExitStack()
        avro = self.open.enter_context(encoder(emulator))
        self.client = self.open.enter_context(producer(emulator, HUB))
        self.events = [encoded(avro, event) for event in values(200, seed=7)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.open.close()

    def send(self, count):
        for partition in range(2):
            send(self.client, {"partition_id": str(partition)}, random.sample(self.events, count // 2))
        return count


class Live:
    def __init__(self, project):
        self.project = project
        self.process = Process([binary(), "--project", project, "run", "--log-format", "json"])

    def stop(self):
        same(self.process.stop(), 0, "the exit code of `sluice run` after SIGTERM")


def keys(table):
    return sorted((row["_partition"], row["_sequence_number"]) for row in by_deltalake(table, ["_partition", "_sequence_number"], ["_partition"]))


def streams_hold(project):
    """What was made of the streams is what one look at all events gives."""
    columns = ["lead_id", "_partition", "_sequence_number"]
    events = sorted(tuple(row.values()) for row in by_deltalake(table_of(project), columns, columns))
    columns = ["lead_id", "part", "number"]
    appended = sorted(tuple(row.values()) for row in by_deltalake(table_of(project, "silver.events"), columns, columns))
    same(len(appended), len(events), "rows that were streamed")
    check(appended == events, "the rows that were streamed differ")
    last = {}
    for lead, part, number in events:
        last[lead] = max(last.get(lead, (-1, "")), (number, part))
    merged = by_deltalake(table_of(project, "silver.last"), columns, columns)
    same(len(merged), len(last), "rows that were merged")
    check({row["lead_id"]: (row["number"], row["part"]) for row in merged} == last, "the rows that were merged differ")


def wait_for_rows(table, count, live, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(deltalake.exceptions.TableNotFoundError):
            found = deltalake.DeltaTable(str(table)).to_pyarrow_table(columns=["_partition"]).num_rows
            if found == count:
                return
        check(live.process.child.poll() is None, f"`sluice run` ended\n{live.process.said()}")
        check(time.monotonic() < deadline, f"{found} of {count} rows after {seconds} s")
        time.sleep(0.1)


def beside_a_live_pipeline(place, emulator, sending):
    project = write_project(place / "live", emulator, {HUB: ""})
    file = project / "pipelines" / "outside" / f"{HUB}.toml"
    file.write_text(file.read_text().replace('"1s"', '"50ms"'))
    text = (project / "sluice.toml").read_text()
    (project / "sluice.toml").write_text(text + '\n[maintenance]\nevery = "1s"\nmin_files = 4\ncheckpoint_every = 10\nlog_retention = "7days"\n')
    (project / "sql").mkdir()
    (project / "sql" / "events.sql").write_text(SQL)
    (project / "pipelines" / "outside" / "transforms.toml").write_text(TRANSFORMS)
    table, sent = table_of(project), 0
    live = Live(project)
    try:
        began, kills, beside = time.monotonic(), 0, None
        while (passed := time.monotonic() - began) < 9:
            sent += sending.send(40)
            time.sleep(0.03)
            if beside and random.random() < 0.2:
                beside.child.send_signal(signal.SIGKILL)
                beside = None
            elif not beside and passed > kills + 1:
                # One beside the one of `sluice run`, killed wherever it is.
                beside = Process([binary(), "--project", project, "maintain", TABLE])
                kills += 1
        wait_for_rows(table, sent, live)
        # What it has to do for the last commits, it does within a second or two.
        deadline = time.monotonic() + 30
        while len(active(table)) >= 8:
            check(time.monotonic() < deadline, f"{len(active(table))} files are left\n{live.process.said()}")
            time.sleep(0.2)
    finally:
        if beside:
            beside.end()
        live.process.child.send_signal(signal.SIGTERM)
    same(live.process.ended(20), 0, "the exit code of `sluice run` after SIGTERM")
    version = head(table)
    operations = [entry["operation"] for entry in deltalake.DeltaTable(str(table)).history()]
    compactions = operations.count("OPTIMIZE")
    check(compactions >= 3, f"`sluice run` compacted {compactions} times")
    found = keys(table)
    same(len(found), sent, "rows")
    same(len(set(found)), sent, "keys")
    streamed = new_rows(table, 0, version)
    same((len(streamed), sorted(streamed)), (sent, found), "what a reader of new rows has seen, each once")
    proof = audit(project, TABLE)
    check(proof["complete"] and proof["duplicates"] == 0, f"audit: {proof}")
    check(not any("RESTORE" in note or "OPTIMIZE" in note for note in proof["notes"]), f"our own commits are no strangers': {proof['notes']}")
    sluice(["--project", project, "transform"])
    streams_hold(project)
    streamed = [entry["operation"] for entry in deltalake.DeltaTable(str(table_of(project, "silver.events"))).history()]
    check(streamed.count("OPTIMIZE") >= 2, f"what the stream wrote was compacted {streamed.count('OPTIMIZE')} times")
    say(f"  streams: {len(streamed)} commits, {streamed.count('OPTIMIZE')} of them compactions")
    say(f"  live: {sent} rows in {operations.count('STREAMING UPDATE')} commits, {compactions} compactions between them, {kills} kills")
    return project, sent


def time_passes(project, sent, sending):
    table = table_of(project)
    expected = keys(table)
    consumed = head(table) // 2
    reads(project, consumed)
    age(table, 30)
    done = maintain(project, TABLE)[TABLE]
    same(done["log_kept_for"], "silver.reader", "for whom the log is kept")
    check(done["vacuumed_files"] > 0, f"nothing was vacuumed: {done}")
    same(keys(table), expected, "keys after vacuum")
    # A stream goes on where it was, however long ago that is.
    before = head(table)
    streamed = new_rows(table, consumed, before)
    same(len(streamed), len(set(streamed)), "what the stream reads, each once")
    check(set(streamed) <= set(expected) and streamed, "what the stream reads is in the table")
    check(audit(project, TABLE)["complete"], "audit after vacuum and log cleanup")
    reads(project, before)
    age(table, 30)
    done = maintain(project, TABLE)[TABLE]
    check(done["log_entries_removed"] > 0, f"what the stream has read is let go: {done}")
    check(done["log_kept_for"] != "silver.reader", "for whom the log is kept then")
    left = sum(1 for path in table.glob("_enqueued_date=*/*.parquet"))
    same(left, len(active(table)), "files that are left are those that the head names")
    proof = audit(project, TABLE)
    check(proof["complete"] and proof["rows"] == sent, f"audit: {proof}")
    # And the pipeline goes on from there.
    more = sending.send(20)
    same(until_caught_up(project)[HUB]["committed"], more, "what comes after it")
    proof = audit(project, TABLE)
    check(proof["complete"] and proof["rows"] == sent + more, f"audit: {proof}")
    sluice(["--project", project, "transform"])
    streams_hold(project)


def on_azure(place, emulator, sending, azurite):
    azurite.container("lake")
    storage = f'[storage.azure]\naccount_name = "{azurite.storage_options()["account_name"]}"\naccount_key = "{azurite.storage_options()["account_key"]}"\nendpoint = "{azurite.endpoint}"\n'
    project = write_project(place / "azure", emulator, {HUB: ""}, lake="az://lake/x", storage=storage)
    file = project / "pipelines" / "outside" / f"{HUB}.toml"
    file.write_text(file.read_text().replace('"1s"', '"100ms"').replace("lakehouse", "azure"))
    table, options = f"az://lake/x/bronze/{HUB}", azurite.storage_options()
    sent = until_caught_up(project)[HUB]["committed"]
    live = Live(project)
    try:
        for _ in range(9):
            sent += sending.send(20)
            deadline = time.monotonic() + 30
            while deltalake.DeltaTable(table, storage_options=options).to_pyarrow_table(columns=["_partition"]).num_rows < sent:
                check(time.monotonic() < deadline, f"the rows don't land\n{live.process.said()}")
                time.sleep(0.1)
    finally:
        live.process.child.send_signal(signal.SIGTERM)
    same(live.process.ended(20), 0, "the exit code of `sluice run` after SIGTERM")
    before = by_deltalake(table, ["_partition", "_sequence_number", "lead_id"], ["_partition", "_sequence_number"], options)
    same(len(before), sent, "rows on Azure")

    from azure.storage.blob import BlobServiceClient

    def lease(until):
        """A leader that isn't there: it died, or its clock says that it leads still."""
        held = {"holder": str(uuid.uuid4()), "until": until.isoformat().replace("+00:00", "Z")}
        with BlobServiceClient(azurite.endpoint, credential=options["account_key"]) as service:
            blob = service.get_blob_client("lake", f"x/_sluice/maintenance/{TABLE}.lease")
            blob.upload_blob(json.dumps(held), overwrite=True)

    now = datetime.datetime.now(datetime.timezone.utc)
    lease(now + datetime.timedelta(seconds=50))
    same(maintain(project, TABLE)[TABLE]["outcome"], "elsewhere", "while another process leads")
    lease(now - datetime.timedelta(seconds=1))
    done = maintain(project, TABLE)[TABLE]
    same((done["outcome"], done["files_after"]), ("done", 1), "once the leader is gone")
    same(maintain(project, TABLE)[TABLE]["outcome"], "done", "it lets the next one lead at once")
    after = by_deltalake(table, ["_partition", "_sequence_number", "lead_id"], ["_partition", "_sequence_number"], options)
    check(before == after, "the rows on Azure differ after maintenance")
    check(audit(project, TABLE)["complete"], "audit on Azure")
    say(f"  Azurite: {done['files_before']} files to {done['files_after']}, a dead leader is followed")


def run():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--commits", type=int, default=5_000)
    commits = arguments.parse_args().commits
    with folder() as place, Emulator({HUB: 2}) as emulator, Sending(emulator) as sending:
        project, sent = beside_a_live_pipeline(place, emulator, sending)
        time_passes(project, sent, sending)
        someone_elses_table(project, commits)
        with Azurite() as azurite:
            on_azure(place, emulator, sending, azurite)


if __name__ == "__main__":
    main(run)
