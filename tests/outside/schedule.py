"""Backfills at their times: by `sluice run`, and by a scheduler elsewhere that calls `sluice run --once`.

    schedule.py

Captures are read at the times of `[schedule]` alone, a time that was missed is made up for by one run, a run
that fails is tried again and told, and exit codes say what a scheduler has to know.
"""

import datetime
import fcntl
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request

import fastavro

from capture import EVENT_DATA, HUB, SCHEMA, captured, capturing, fill, project, table_of, wait_for, with_events
from events import values
from machine import AZURITE_ACCOUNT, AZURITE_KEY, Azurite, Emulator, Process, audit, check, folder, main, run as sluice, same, say, sluice as binary
from readers import read

YEARLY = "0 0 1 1 *"


def schedule(made, cron=YEARLY, window=None, alone=True):
    """Adds a schedule to the pipeline; `alone` takes away the hub."""
    file = made / "pipelines" / "outside" / f"{HUB}.toml"
    text = file.read_text()
    if alone:
        begin, end = text.index("[source.event_hubs]"), text.index("[sink]")
        text = text[:begin] + text[end:].replace("[source.capture]", f'[source.capture]\nhub = "{HUB}"').replace('sweep_every = "1s"\n', "")
    file.write_text(text + f'\n[schedule]\ncron = "{cron}"\n' + (f'window = "{window}"\n' if window else ""))


def once(made, expect=0, **more):
    out = sluice(["--project", made, "run", "--once", "--format", "json"], expect=expect, **more)
    return json.loads(out[0] if expect else out)["pipelines"][0] if expect in (0, 1) else out[1]


def told(made):
    """What `sluice status` says of the schedule."""
    return json.loads(sluice(["--project", made, "status", "--format", "json"]))["pipelines"][0]["schedule"]


def record(made):
    return made / "lake" / "_sluice" / "schedules" / f"{HUB}.json"


def missed(made):
    """As if the last time had come while nothing ran."""
    held = json.loads(record(made).read_text())
    held["dealt_until"] = "2020-01-01T00:00:00Z"
    record(made).write_text(json.dumps(held))


class Running(Process):
    """`sluice run`, and what its server answers."""

    def __init__(self, made):
        super().__init__([binary(), "--project", made, "run"])
        deadline = time.monotonic() + 60
        while not (found := re.search(r"address=(127\.0\.0\.1:\d+)", re.sub(r"\x1b\[\d+m", "", self.said(100_000)))):
            check(self.child.poll() is None and time.monotonic() < deadline, f"it doesn't serve\n{self.said()}")
            time.sleep(0.05)
        self.address = f"http://{found[1]}"

    def ask(self, path, accept="application/json"):
        request = urllib.request.Request(self.address + path, headers={"accept": accept})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def pipeline(self):
        return json.loads(self.ask("/")[1])["pipelines"][0]

    def runs(self, outcome):
        found = re.search(rf'^sluice_pipeline_scheduled_runs_total{{.*outcome="{outcome}".*}} (\d+)$', self.ask("/metrics")[1], re.M)
        return int(found[1]) if found else 0

    def until(self, holds, what, seconds=60):
        deadline = time.monotonic() + seconds
        while not holds(self):
            check(self.child.poll() is None and time.monotonic() < deadline, f"{what}\n{self.said()}")
            time.sleep(0.05)


def rows(made):
    return len(read("deltalake", table_of(made), ["_sequence_number"]))


def at_its_times(place):
    """Captures alone: nothing is read but when it is time, and missed times are made up for by one run."""
    captures, emulator = capturing(place, "--capture-every", "1s", "--capture-bytes", "50KB")
    with emulator:
        sent = values(3_000, seed=101)
        fill(emulator, sent)
        captured(captures, 3_000)
        made = project(place / "project", emulator, captures, decode='[decode]\nschema = "schemas/lead.avsc"\nframing = "bare"\n')
    (made / "schemas").mkdir()
    (made / "schemas" / "lead.avsc").write_text(json.dumps(SCHEMA))
    schedule(made)
    late = [with_events(part)[-2] for part in sorted((captures / "emulator" / HUB).iterdir())]
    later = [with_events(part)[-1] for part in sorted((captures / "emulator" / HUB).iterdir())]
    for path in late + later:
        path.rename(path.with_suffix(".late"))

    first = once(made)["committed"]
    check(0 < first < 3_000, f"the first run took in {first}")
    same(told(made)["last_run"]["outcome"], "complete", "what `status` says of it")
    same(once(made)["committed"], 0, "what a second run finds")

    running = Running(made)
    try:
        running.until(lambda it: it.pipeline()["state"] == "waiting", "it doesn't wait")
        for path in late:
            path.with_suffix(".late").rename(path)
        # Longer than any sweep of a pipeline that isn't scheduled would take here.
        time.sleep(2)
        same((rows(made), running.runs("complete")), (first, 0), "rows and runs before its time")
        same(running.ask("/readyz")[0], 200, "whether it is ready while it waits")
        page = running.ask("/", accept="text/html")[1]
        check(f"<code>{YEARLY}</code>" in page and ", complete</p>" in page, f"the page: {page}")
        check(running.pipeline()["schedule"]["next_at"].endswith("-01-01T00:00:00Z"), f"the next time: {running.pipeline()['schedule']}")
        same(running.stop(), 0, "the exit code after SIGTERM")
    finally:
        running.end()

    told_before = told(made)["last_run"]
    missed(made)
    killed = Running(made)
    killed.until(lambda it: "a scheduled backfill begins" in it.said(100_000), "it doesn't begin")
    killed.end()
    if told(made)["last_run"]["began_at"] > told_before["began_at"]:
        # It was faster than the kill.
        missed(made)
    running = Running(made)
    try:
        running.until(lambda it: it.runs("complete") == 1, "what was missed isn't made up for")
        second = rows(made)
        check(first < second < 3_000, f"{second} rows after it, {first} before")
        for path in later:
            path.with_suffix(".late").rename(path)
        time.sleep(1)
        same((rows(made), running.runs("complete"), running.pipeline()["state"]), (second, 1, "waiting"), "one run for all the times that were missed")
        same(running.stop(), 0, "the exit code after SIGTERM")
    finally:
        running.end()
    same(once(made)["committed"], 3_000 - second, "the rest")
    proof = audit(made, f"bronze.{HUB}")
    same((proof["complete"], proof["rows"]), (True, 3_000), "the audit")
    say("  at its times: waits, makes up for what was missed by one run, and is asked from outside by `--once`")
    return made, captures


def exit_codes(made, captures):
    """What a scheduler is told: 1 look at it, 3 try again, 130 stopped before the end."""
    [torn, *_] = with_events(captures / "emulator" / HUB / "0")
    copy = torn.parent.parent / "59" / "59.avro"
    copy.parent.mkdir()
    copy.write_bytes(torn.read_bytes()[:60])
    same(once(made, expect=1)["torn_blobs"], 1, "a torn blob")
    same(told(made)["last_run"]["outcome"], "incomplete", "what `status` says of it")
    copy.unlink()

    lock = made / "lake" / "_sluice" / "locks" / f"{HUB}@$schedule.lock"
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        check("another process runs the scheduled backfill" in once(made, expect=3), "who holds the lock isn't told")

    # Something lies where the captures were: a run fails, is tried again, and lands once that is mended.
    away = captures.with_suffix(".away")
    captures.rename(away)
    captures.write_text("")
    check("can't be made" in once(made, expect=3), "why it failed isn't told")
    missed(made)
    running = Running(made)
    try:
        running.until(lambda it: it.runs("failed") >= 2, "it isn't tried again")
        status, why = running.ask("/readyz")
        check(status == 503 and "backing-off" in why and "can't be made" in why, f"{status}: {why}")
        same(told(made)["last_run"]["outcome"], "failed", "what `status` says meanwhile")
        captures.unlink()
        away.rename(captures)
        running.until(lambda it: it.runs("complete") == 1, "it doesn't land")
        same(running.ask("/readyz")[0], 200, "whether it is ready again")
        same(running.stop(), 0, "the exit code after SIGTERM")
    finally:
        running.end()

    file = made / "pipelines" / "outside" / f"{HUB}.toml"
    text = file.read_text()
    file.write_text(text[: text.index("[schedule]")])
    out = sluice(["--project", made, "run", "--once"], expect=1)
    check("nothing is scheduled" in out[1], out[1])
    out = sluice(["--project", made, "run", "--once", HUB], expect=1)
    check(f"nothing is scheduled for pipeline `{HUB}`" in out[1], out[1])
    # The registry is gone and events name their schema: a run that can't end is told to.
    file.write_text(text[: text.index("[decode]")] + text[text.index("[schedule]") :])
    shutil.rmtree(made / "lake")
    stuck = Process([binary(), "--project", made, "run", "--once"])
    try:
        deadline = time.monotonic() + 60
        while "reading captures" not in stuck.said(100_000):
            check(time.monotonic() < deadline, f"it doesn't begin\n{stuck.said()}")
            time.sleep(0.05)
        same(stuck.stop(), 130, "the exit code of a run that was stopped before its end")
    finally:
        stuck.end()
    same(told(made)["last_run"]["outcome"], "stopped", "what `status` says of it")
    say("  exit codes: 1 torn, 3 failed or run elsewhere, 130 stopped; a failure is tried again, and told")


def beside_the_live_path(place):
    """The clock's own minute: history lands at its time, while live goes on."""
    captures, emulator = capturing(place)
    with emulator:
        sent = values(2_500, seed=103)
        fill(emulator, sent[:2_000])
        captured(captures, 2_000)
        made = project(place / "project", emulator, captures, live='start = "latest"')
        schedule(made, cron="* * * * *", window="1h", alone=False)
        running = Running(made)
        try:
            running.until(lambda it: it.pipeline()["state"] == "running" and len(it.pipeline()["partitions"]) == 2, "live doesn't begin")
            fill(emulator, sent[2_000:])
            wait_for(made, lambda rows: rows >= 500)
            running.until(lambda it: it.runs("complete") >= 1, "its time doesn't come", seconds=90)
            wait_for(made, lambda rows: rows == 2_500)
            same(running.pipeline()["state"], "running", "the live path, beside")
            inflight = re.findall(r"^sluice_pipeline_in_flight_events{.*} (\S+)$", running.ask("/metrics")[1], re.M)
            same([float(held) for held in inflight], [0.0, 0.0], "what is in flight of both, once all is committed")
            same(told(made)["last_run"]["outcome"], "complete", "what `status` says of it")
            same(running.stop(), 0, "the exit code after SIGTERM")
        finally:
            running.end()
        proof = audit(made, f"bronze.{HUB}")
        same((proof["complete"], proof["rows"], proof["duplicates"]), (True, 2_500, 0), "the audit")
    say("  beside the live path, when the minute comes")


def only_its_window(place, emulator):
    """Events from before the window stay away, until a run had to look further back."""
    captures = place / "captures"
    now = datetime.datetime.now(datetime.timezone.utc)
    for index, (first, age) in enumerate([(0, datetime.timedelta(days=9)), (10, datetime.timedelta(hours=1))]):
        at = now - age
        path = captures / "emulator" / HUB / "0" / at.strftime("%Y/%m/%d/%H/%M/%S.avro")
        path.parent.mkdir(parents=True)
        records = [{
            "SequenceNumber": number, "Offset": "0", "EnqueuedTimeUtc": "", "Properties": {}, "Body": b"x",
            "SystemProperties": {"x-opt-enqueued-time": int(at.timestamp() * 1000) + number},
        } for number in range(first, first + 10)]
        with path.open("wb") as file:
            fastavro.writer(file, fastavro.parse_schema(json.loads(json.dumps(EVENT_DATA))), records)
    made = project(place / "project", emulator, captures, decode='[decode]\nformat = "raw"\n')
    schedule(made, window="2days")
    same(once(made)["committed"], 10, "what the window holds")
    # The last run that missed nothing was eight days ago.
    held = json.loads(record(made).read_text())
    held["complete_at"] = (now - datetime.timedelta(days=8)).isoformat().replace("+00:00", "Z")
    record(made).write_text(json.dumps(held))
    same(once(made)["committed"], 10, "what a run takes in that makes up for eight days")
    say("  a window reaches back from the last run that missed nothing")


def with_its_state_on_azure(place, emulator):
    """The record and the index go where the state goes: a pod that starts anew has no disk of the one before."""
    captures = place / "captures"
    at = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
    for first in range(0, 200, 10):
        path = captures / "emulator" / HUB / "0" / (at + datetime.timedelta(minutes=first)).strftime("%Y/%m/%d/%H/%M/%S.avro")
        path.parent.mkdir(parents=True)
        records = [{
            "SequenceNumber": number, "Offset": "0", "EnqueuedTimeUtc": "", "Properties": {}, "Body": b"x",
            "SystemProperties": {"x-opt-enqueued-time": int(at.timestamp() * 1000) + number},
        } for number in range(first, first + 10)]
        with path.open("wb") as file:
            fastavro.writer(file, fastavro.parse_schema(json.loads(json.dumps(EVENT_DATA))), records)
    with Azurite() as azurite:
        azurite.container("state")
        made = project(place / "project", emulator, captures, decode='[decode]\nformat = "raw"\n')
        schedule(made)
        file = made / "sluice.toml"
        file.write_text(file.read_text() + f"""
[state]
url = "az://state/sluice"

[storage.azure]
account_name = "{AZURITE_ACCOUNT}"
account_key  = "{AZURITE_KEY}"
endpoint     = "{azurite.endpoint}"
""")
        same(once(made)["committed"], 200, "what a run takes in")
        check(not (made / "lake" / "_sluice").exists(), "something of the state lies in the lake")
        same(told(made)["last_run"]["committed"], 200, "what `status` says of it")
        # Torn for whoever opens them, and the same from outside.
        for path in captures.rglob("*.avro"):
            before = path.stat()
            with path.open("r+b") as blob:
                blob.write(b"torn")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        again = once(made)
        same((again["received"], again["blobs"], again["torn_blobs"]), (0, 0, 0), "what a second run opens")
    say("  with its state on Azure: the record and the index are there for whoever comes next")


def run():
    with folder() as place, Emulator({HUB: 1}) as emulator:
        exit_codes(*at_its_times(place / "a"))
        only_its_window(place / "b", emulator)
        with_its_state_on_azure(place / "d", emulator)
        beside_the_live_path(place / "c")


if __name__ == "__main__":
    main(run)
