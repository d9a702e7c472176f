"""The insurer's silver and gold, computed once more: DuckDB and Polars read bronze, silver and gold of the demo's lake,
compute each table from bronze in one shot by queries of their own, and compare row by row.

First after demos that ran to their end, each going on where the one before ended. Then with kills: the demo's project
runs (`sluice run`) over hubs that drip, and is killed and started again; in the end the tables are the same.

    silver_gold.py [--events N] [--kills N] [--seed N]
"""

import argparse
import json
import pathlib
import random
import re
import signal
import time

import insurer
from machine import Emulator, Failed, Process, check, folder, main, run, same, say, until_caught_up
from readers import duckdb_connection

# How fast the hubs drip while processes are killed, and how many events a kill should have for itself.
EVENTS_PER_SECOND = 150
EVENTS_PER_KILL = 400


def compare_all(lake):
    started = time.monotonic()
    expected = insurer.expected_by_duckdb(duckdb_connection(), lake)
    again = insurer.expected_by_polars(lake)
    counts = {}
    for table, (columns, keys) in insurer.TABLES.items():
        wanted = insurer.rows(expected[table], columns)
        if table in again:
            insurer.compare(f"`{table}` by Polars and by DuckDB", columns, keys, insurer.rows(again[table], columns), wanted)
        for reader, found in insurer.read_by_each(lake, table, columns):
            insurer.compare(f"`{table}` as {reader} reads it", columns, keys, insurer.rows(found, columns), wanted)
        check(wanted, f"`{table}` has rows")
        counts[table] = len(wanted)
    say(f"  {', '.join(f'{table} {count}' for table, count in counts.items())}: equal, {time.monotonic() - started:.1f} s")
    return counts


def demos(place, events, seed):
    """Three demos in one folder, of different sizes: the later ones are incremental."""
    project = place / "demo"
    for part in (events // 2, events // 10, events - events // 2 - events // 10):
        summary = json.loads(run(["demo", "--events", part, "--dir", project, "--seed", seed, "--format", "json"]))
        check(all(audit["complete"] for audit in summary["audit"]), "every audit is complete")
        counts = compare_all(project / "lake")
        told = {table["name"]: table["rows"] for table in summary["tables"]}
        for table, count in counts.items():
            same(told.get(table), count, f"rows of `{table}` as the demo tells them")
    for table in ("silver.products", "silver.accounts", "silver.sales", "silver.leads"):
        side = project / "lake" / (table.replace(".", "/") + "__quarantine")
        count = duckdb_connection().execute(f"SELECT count(*) FROM delta_scan('{side}')").fetchone()[0]
        check(count > 0, f"`{table}` has quarantined rows")


def drip(project):
    """The demo's project, such that its tables grow in many small commits."""
    file = project / "sluice.toml"
    file.write_text(file.read_text() + '\n[serve]\naddress = "127.0.0.1:0"\n')
    for pipeline in (project / "pipelines").rglob("*.toml"):
        text = pipeline.read_text()
        text = re.sub(r"(consumer_group = .*)", rf"\1\nmax_events_per_second = {EVENTS_PER_SECOND}", text)
        text = re.sub(r"(\[sink\])", r'\1\ncommit_every = "300ms"', text)
        text = re.sub(r"(mode +=)", r'every = "500ms"\n\1', text)
        pipeline.write_text(text)


def kills(place, count, seed):
    dice = random.Random(seed)
    project = place / "killed"
    events = max(3000, EVENTS_PER_KILL * count)
    # The demo fills the hubs; its lake is thrown away.
    run(["demo", "--events", events, "--dir", project, "--seed", seed + 1, "--format", "json"])
    (project / "lake").rename(place / "lake-of-the-demo")
    drip(project)
    killed = 0
    with Emulator({}, "--dir", str(project / ".emulator")) as emulator:
        env = insurer.environment(emulator)
        while killed < count:
            process = Process([*insurer.sluice(project), "run"], env=env)
            time.sleep(dice.uniform(0.2, 2.5))
            check(process.child.poll() is None, f"`sluice run` ended by itself\n{process.said()}")
            process.child.send_signal(signal.SIGKILL)
            process.child.wait()
            killed += 1
        commits = {layer: len(list((project / "lake" / layer).glob("*/_delta_log/*.json"))) for layer in ("bronze", "silver", "gold")}
        say(f"  {killed} kills over {events} events, commits so far: {commits}")
        check(min(commits.values()) > 1, f"all layers were written to between the kills: {commits}")
        until_caught_up(project, env=env, seconds=600)
        insurer.audit_all(project, env)
    compare_all(project / "lake")


def run_all():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--events", type=int, default=10_000)
    arguments.add_argument("--kills", type=int, default=10)
    arguments.add_argument("--seed", type=int, default=1)
    arguments = arguments.parse_args()
    with folder() as place:
        if arguments.events:
            demos(pathlib.Path(place), arguments.events, arguments.seed)
        if arguments.kills:
            kills(pathlib.Path(place), arguments.kills, arguments.seed)


if __name__ == "__main__":
    main(run_all)
