"""Numbers that nobody has any more are told until somebody accepts them, and land all the same when they turn up.

A hub that keeps events for seconds, a reader that was away for longer, captures of which one needed blob is
gone: `audit`, `status`, `gaps list`, the log and the metrics name exactly what is missing; `gaps heal` can't
mend it; accepted, it is listed as such and alarms nobody. With the blob back, `gaps heal` lands the events
beside a live pipeline, and each is there once, as `deltalake` reads it.
"""

import datetime
import json
import re
import time
import urllib.request

import deltalake
import fastavro

from capture import HUB, backfill, captured, capturing, fill, project, table_of, wait_for, with_events
from events import values
from machine import Process, audit, check, folder, main, run as sluice, same, say, sluice as binary, until_caught_up
from readers import read

TABLE = f"bronze.{HUB}"
SOURCE = f"emulator/{HUB}"


def ask(project, *arguments, expect=0):
    """The answer of a `sluice` command as JSON."""
    out = sluice(["--project", project, *arguments, "--format", "json"], expect=expect)
    return json.loads(out[0] if expect else out)


def refused(project, *arguments):
    """What a command says that has to end with 1."""
    out, words = sluice(["--project", project, *arguments], expect=1)
    same(out, "", "what is refused prints no data")
    return words


def accept(project, start, end, *more):
    return ["gaps", "accept", HUB, "--partition", "1", "--from", str(start), "--to", str(end), *more]


def gone_by_retention(emulator, before, seconds=60):
    """Lets the hub keep events for two seconds, until it has nothing below `before` any more."""
    emulator.ask("PUT", "/retention", {"max_events": None, "max_age": "2s"})
    deadline = time.monotonic() + seconds
    while True:
        held = emulator.partitions_of(HUB, 2)
        if all(partition["begin_sequence_number"] >= before for partition in held.values()):
            emulator.ask("PUT", "/retention", {"max_events": None, "max_age": None})
            return
        check(time.monotonic() < deadline, f"retention leaves {held} after {seconds} s")
        time.sleep(0.3)


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


class Live:
    """`sluice run` with its metrics."""

    def __init__(self, project):
        self.process = Process([binary(), "--project", project, "run", "--log-format", "json"])
        deadline = time.monotonic() + 60
        while not (found := re.search(r'"address":"([0-9.]+:[0-9]+)"', self.process.said(1_000_000))):
            check(time.monotonic() < deadline, f"the server isn't up\n{self.process.said()}")
            time.sleep(0.1)
        self.metrics = f"http://{found[1]}/metrics"

    def gauge(self):
        """Partition to the gauge of what it lacks."""
        with urllib.request.urlopen(self.metrics, timeout=30) as answer:
            text = answer.read().decode()
        found = re.findall(r'^sluice_sink_gap_events\{([^}]*)\} ([0-9.e+]+)$', text, re.MULTILINE)
        return {re.search(r'partition="([^"]*)"', labels)[1]: float(value) for labels, value in found}

    def until(self, partition, value, seconds=60):
        deadline = time.monotonic() + seconds
        while (found := self.gauge().get(partition)) != value:
            check(time.monotonic() < deadline, f"the gauge of partition {partition} is {found}, not {value}\n{self.process.said()}")
            time.sleep(0.2)

    def errors(self):
        """Lines of the log that name something missing as an error."""
        lines = (json.loads(line) for line in self.process.said(10_000_000).splitlines() if line.startswith("{"))
        return [line for line in lines if line["level"] == "ERROR" and "missing" in json.dumps(line)]

    def stop(self):
        same(self.process.stop(), 0, "the exit code after SIGTERM")


def told_until_accepted(made, count, start, end):
    """The run that goes on: its gauge and its log, until somebody else accepts what is missing."""
    half = (start + end) // 2
    live = Live(made)
    try:
        live.until("1", count)
        same(live.gauge()["0"], 0, "the gauge of a partition that lacks nothing")
        deadline = time.monotonic() + 30
        while len(live.errors()) < 3:
            check(time.monotonic() < deadline, f"not told at each sweep\n{live.process.said()}")
            time.sleep(0.2)

        words = refused(made, *accept(made, start - 10, end, "--why", "x", "--by", "t"))
        check(f"accounts for [{start - 10}, {start})" in words and f"[{start}, {end})" in words, f"a range that is partly covered: {words}")
        words = refused(made, *accept(made, 0, 10, "--why", "x", "--by", "t"))
        check("accounts for [0, 10)" in words, f"a range that is covered: {words}")
        words = refused(made, *accept(made, 1_000_000, 1_000_010, "--why", "x", "--by", "t"))
        check("past its end" in words, f"a range past the end: {words}")
        words = refused(made, *accept(made, start, end, "--why", " ", "--by", "t"))
        check("`--why` is blank" in words, f"no reason: {words}")
        words = refused(made, "gaps", "accept", HUB, "--partition", "7", "--from", "1", "--to", "2", "--why", "x", "--by", "t")
        check("no partition `7`" in words and f"{SOURCE}/0" in words, f"an unknown partition: {words}")

        [accepted] = ask(made, *accept(made, start, half, "--why", "the blob is gone", "--by", "ada"))["gaps"]
        same((accepted["from"], accepted["to"], accepted["state"], accepted["accepted"]["by"]), (start, half, "accepted", "ada"), "the first half")
        live.until("1", end - half)
        proof = audit(made, TABLE, expect=1)
        same(proof["missing"], end - half, "what is missing beside what was accepted")
        check(any(f"{half} to {end - 1}" in problem for problem in proof["problems"]), f"the audit doesn't name the rest: {proof['problems']}")

        ask(made, *accept(made, half, end, "--why", "the blob is gone, too", "--by", "bob"))
        live.until("1", 0)
        words = refused(made, *accept(made, start, end, "--why", "x", "--by", "t"))
        check("was accepted by ada" in words, f"what was accepted already: {words}")
        told = len(live.errors())
        time.sleep(3)
        same(len(live.errors()), told, "errors in the log, three sweeps after all was accepted")
        live.stop()
    finally:
        live.process.end()
    return half


def a_hole_that_a_blob_would_heal(place):
    captures, emulator = capturing(place, "--capture-every", "1s", "--capture-bytes", "50KB")
    with emulator:
        sent = values(4_000, seed=141)
        fill(emulator, sent[:1_000])
        made = project(place / "project", emulator, captures)
        same(until_caught_up(made)[HUB]["committed"], 1_000, "what was read before the outage")
        same(ask(made, "gaps", "list"), {"gaps": []}, "the gaps of a table that is whole")
        # The reader is away, and retention passes it.
        fill(emulator, sent[1_000:3_000])
        captured(captures, 3_000)
        gone_by_retention(emulator, 1_500)
        start, end, blob = lost_blob(captures)
        count = end - start
        # Nothing came since: the ledger can't know, the hub can.
        same(ask(made, "gaps", "list"), {"gaps": []}, "what the ledger alone knows of")
        by_hub = ask(made, "gaps", "list", HUB, "--hub")["gaps"]
        same([(gap["partition"], gap["from"], gap["to"], gap["known_by"]) for gap in by_hub], [("0", 500, 1_500, "hub"), ("1", 500, 1_500, "hub")], "what the hub has no more")
        fill(emulator, sent[3_000:])
        done = until_caught_up(made)[HUB]
        same((done["committed"], done["missing"]), (3_000 - count, count), "the run after the outage")

        proof = audit(made, TABLE, expect=1)
        same((proof["complete"], proof["missing"], proof["accepted"]), (False, count, 0), "the audit")
        check(any(f"{start} to {end - 1}" in problem for problem in proof["problems"]), f"the audit doesn't name [{start}, {end}): {proof['problems']}")
        lacking = [{
            "pipeline": HUB, "table": TABLE, "source": SOURCE, "partition": "1", "from": start, "to": end, "count": count,
            "known_by": "ledger", "hub_may_have": False, "state": "open", "accepted": None,
        }]
        for named in ([], [HUB], [TABLE], [TABLE, "--hub"]):
            same(ask(made, "gaps", "list", *named), {"gaps": lacking}, f"the gaps of {named}")
        same(ask(made, "gaps", "list", "--exit-code", expect=1), {"gaps": lacking}, "the gaps, for a script")
        [status] = ask(made, "status")["pipelines"]
        same((status["gap_events"], status["accepted_gap_events"], status["state"]), (count, 0, "idle"), "the status")
        healed = ask(made, "gaps", "heal", HUB, expect=1)
        same((healed["healed"], healed["gaps"], healed["committed"]), ([], lacking, 0), "healing without the blob")
        say(f"  without its blob [{start}, {end}) is named by audit, list and status, and can't be healed")

        half = told_until_accepted(made, count, start, end)
        proof = audit(made, TABLE)
        same((proof["complete"], proof["missing"], proof["accepted"], proof["rows"]), (True, 0, count, 4_000 - count), "the audit of what was accepted")
        [_, partition] = proof["partitions"]
        same([(gap["from"], gap["to"], gap["by"]) for gap in partition["accepted"]], [(start, half, "ada"), (half, end, "bob")], "what the audit lists as accepted")
        words = sluice(["--project", made, "audit", TABLE])
        check(f"accepted: partition `{SOURCE}/1`: [{start}, {half}), by ada at " in words and "the blob is gone" in words, f"the words of the audit: {words}")
        [status] = ask(made, "status")["pipelines"]
        same((status["gap_events"], status["accepted_gap_events"]), (0, count), "the status of what was accepted")
        same([gap["state"] for gap in ask(made, "gaps", "list", "--exit-code")["gaps"]], ["accepted", "accepted"], "the gaps")
        held = deltalake.DeltaTable(str(made / "lake" / "sluice" / "gaps")).to_pyarrow_table().to_pylist()
        held = sorted((row["from"], row["to"], row["accepted_by"], row["why"], row["table"], row["source"], row["partition"]) for row in held)
        same(held, [(start, half, "ada", "the blob is gone", TABLE, SOURCE, "1"), (half, end, "bob", "the blob is gone, too", TABLE, SOURCE, "1")], "the table of what was accepted")
        asked = ask(made, "query", 'SELECT "from", "to", why FROM sluice.gaps ORDER BY "from"')
        same(asked[0], {"from": start, "to": half, "why": "the blob is gone"}, "the same table by SQL")
        same(ask(made, "gaps", "heal", HUB)["healed"], [], "healing where all that is missing was accepted")
        say("  told at each sweep and in the gauge until accepted; then listed as accepted, with who and why")

        turned_up(made, emulator, captures, blob, (start, end))
        rows = read("deltalake", table_of(made), ["lead_id", "_partition", "_sequence_number"])
        same(sorted(row["lead_id"] for row in rows), sorted(event["lead_id"] for event in sent), "the rows")
        same(len({(row["_partition"], row["_sequence_number"]) for row in rows}), 4_000, "the keys, each once")
        proof = audit(made, TABLE)
        same((proof["complete"], proof["rows"], proof["accepted"], proof["duplicates"]), (True, 4_000, 0, 0), "the audit, once the blob is back")
        same(ask(made, "gaps", "list"), {"gaps": []}, "the gaps, once the blob is back")
        say("  with the blob back it lands beside a live pipeline, once, and the acceptance doesn't matter any more")


def what_the_hub_alone_can_tell(place):
    """Retention passed the reader and nothing came since: the ledger doesn't know, the hub does."""
    captures, emulator = capturing(place, "--capture-every", "1s", "--capture-bytes", "50KB")
    with emulator:
        fill(emulator, values(1_000, seed=142))
        made = project(place / "project", emulator, captures)
        same(until_caught_up(made)[HUB]["committed"], 1_000, "what was read before the outage")
        fill(emulator, values(2_000, seed=143))
        captured(captures, 3_000)
        gone_by_retention(emulator, 1_500)
        last = with_events(captures / "emulator" / HUB / "1")[-1]
        with last.open("rb") as file:
            start = next(fastavro.reader(file))["SequenceNumber"]
        last.rename(last.with_suffix(".away"))
        healed = ask(made, "gaps", "heal", HUB)
        same((healed["healed"], healed["gaps"]), ([], []), "healing what the ledger alone knows of")
        healed = ask(made, "gaps", "heal", HUB, "--hub", expect=1)
        found = [(part["partition"], part["from"], part["to"]) for part in healed["healed"]]
        same(found, [("0", 500, 1_500), ("1", 500, start)], "healing what the hub tells")
        [gap] = healed["gaps"]
        same((gap["partition"], gap["from"], gap["to"], gap["known_by"]), ("1", start, 1_500, "hub"), "what is missing still")
        words = refused(made, *accept(made, start, 1_500, "--why", "x", "--by", "t"))
        check("past its end" in words, f"what the ledger doesn't know: {words}")
        ask(made, *accept(made, start, 1_500, "--why", "the blob is gone", "--by", "ada", "--hub"))
        [gap] = ask(made, "gaps", "list", "--hub", "--exit-code")["gaps"]
        same((gap["from"], gap["to"], gap["state"], gap["known_by"]), (start, 1_500, "accepted", "hub"), "the gap, accepted")
        fill(emulator, values(100, seed=144))
        same(until_caught_up(made)[HUB]["missing"], 0, "what the next run misses")
        proof = audit(made, TABLE)
        same((proof["complete"], proof["accepted"], proof["rows"]), (True, 1_500 - start, 3_100 - 1_500 + start), "the audit")
    say("  what the hub alone can tell is listed, healed and accepted with --hub")


def a_gap_of_the_generation_before(place):
    captures, emulator = capturing(place, "--capture-every", "1s", "--capture-bytes", "20KB")
    with emulator:
        fill(emulator, values(600, seed=145))
        captured(captures, 600)
        lost = with_events(captures / "emulator" / HUB / "0")[1]
        with lost.open("rb") as file:
            numbers = [event["SequenceNumber"] for event in fastavro.reader(file)]
        time.sleep(0.01)
        since = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        emulator.ask("POST", f"/hubs/{HUB}/remake")
        fill(emulator, values(400, seed=146))
        lost.rename(lost.with_suffix(".away"))
        made = project(place / "project", emulator, captures, source=f'[source]\ngeneration = {{ name = "2", since = {since} }}')
        same(until_caught_up(made)[HUB]["committed"], 400, "events of the hub made anew")
        same(backfill(made, expect=1)["missing"], len(numbers), "what the blobs lack of the hub before")
        [gap] = ask(made, "gaps", "list")["gaps"]
        same((gap["source"], gap["from"], gap["to"]), (SOURCE, numbers[0], numbers[-1] + 1), "the gap")
        [status] = ask(made, "status")["pipelines"]
        same((status["gap_events"], [part["gap_events"] for part in status["partitions"]]), (len(numbers), [0, 0]), "the status")
        live = Live(made)
        try:
            live.until("0", len(numbers))
            check(live.errors(), "the log names what the generation before lacks, at the start")
            live.stop()
        finally:
            live.process.end()
        ask(made, "gaps", "heal", HUB, expect=1)
        lost.with_suffix(".away").rename(lost)
        [part] = ask(made, "gaps", "heal", HUB)["healed"]
        same((part["source"], part["count"]), (SOURCE, len(numbers)), "what was healed")
        same(len(read("deltalake", table_of(made), ["lead_id"])), 1_000, "rows of both")
        same(audit(made, TABLE)["complete"], True, "the audit")
    say("  a gap of the generation before heals, too")


def captures_alone(place):
    """Without a hub to ask, a blob that is lost is told at each sweep, and by the next start at once, until it is accepted."""
    captures, emulator = capturing(place, "--capture-every", "1s", "--capture-bytes", "20KB")
    with emulator:
        fill(emulator, values(1_000, seed=147))
        captured(captures, 1_000)
        made = project(place / "project", emulator, captures)
        file = made / "pipelines" / "outside" / f"{HUB}.toml"
        text = file.read_text()
        begin, end = text.index("[source.event_hubs]"), text.index("[sink]")
        file.write_text(text[:begin] + text[end:].replace("[source.capture]", f'[source.capture]\nhub = "{HUB}"'))
        lost = with_events(captures / "emulator" / HUB / "1")[1]
        with lost.open("rb") as blob:
            numbers = [event["SequenceNumber"] for event in fastavro.reader(blob)]
        lost.rename(lost.with_suffix(".away"))
        for start in ("first", "second", "third"):
            live = Live(made)
            try:
                if start == "third":
                    live.until("1", 0)
                    time.sleep(3)
                    same(live.errors(), [], "errors of a run that begins after all was accepted")
                    lost.with_suffix(".away").rename(lost)
                    wait_for(made, lambda rows: rows == 1_000)
                else:
                    live.until("1", len(numbers))
                    deadline = time.monotonic() + 30
                    while len(live.errors()) < 3:
                        check(time.monotonic() < deadline, f"not told at each sweep\n{live.process.said()}")
                        time.sleep(0.2)
                if start == "second":
                    ask(made, *accept(made, numbers[0], numbers[-1] + 1, "--why", "lost", "--by", "ada"))
                    live.until("1", 0)
                    same([(part["state"], part["gap_events"], part["accepted_gap_events"]) for part in ask(made, "status")["pipelines"]], [("captured", 0, len(numbers))], "the status")
                live.stop()
            finally:
                live.process.end()
        proof = audit(made, TABLE)
        same((proof["complete"], proof["rows"], proof["accepted"]), (True, 1_000, 0), "the audit, once the blob is back")
    say("  captures alone: told until accepted, by the next start too; the blob lands when it comes")


def turned_up(made, emulator, captures, blob, gap):
    """The blob is back. A live pipeline that knows no captures runs on the same table meanwhile; the acceptances
    are taken away by a stranger, so that its gauge has something to say."""
    start, end = gap
    deltalake.DeltaTable(str(made / "lake" / "sluice" / "gaps")).alter.set_table_properties({"delta.appendOnly": "false"})
    deltalake.DeltaTable(str(made / "lake" / "sluice" / "gaps")).delete()
    file = made / "pipelines" / "outside" / f"{HUB}.toml"
    text = file.read_text()
    file.write_text(text[: text.index("[source.capture]")])
    live = Live(made)
    try:
        live.until("1", end - start)
        file.write_text(text)
        blob.rename(blob.with_suffix(".avro"))
        crashed = Process([binary(), "--project", made, "gaps", "heal", HUB, "--crash-at", "data-staged"])
        check(crashed.ended(60) != 0, "the fault point kills")
        healed = ask(made, "gaps", "heal", HUB)
        same((healed["healed"], healed["gaps"], healed["committed"]), ([{"table": TABLE, "source": SOURCE, "partition": "1", "from": start, "to": end, "count": end - start}], [], end - start), "healing with the blob back")
        live.until("1", 0)
        live.stop()
    finally:
        live.process.end()


def run():
    with folder() as place:
        a_hole_that_a_blob_would_heal(place / "a")
        what_the_hub_alone_can_tell(place / "b")
        a_gap_of_the_generation_before(place / "c")
        captures_alone(place / "d")


if __name__ == "__main__":
    main(run)
