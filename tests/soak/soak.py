"""The crash loop: two processes of two consumer groups write one table, are killed at random moments and
at every named point of a flush, and are put to sleep and woken as zombies, while a producer sends and
its schema gains fields. In the end each number is there once; judge.py says so, and `sluice audit` agrees.

    soak.py [--kills N] [--seed N]
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import deltalake

here = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(here), str(here.parent / "outside")]

from judge import judge, sent_of  # noqa: E402
from machine import (  # noqa: E402
    AZURITE_ACCOUNT, AZURITE_KEY, Azurite, Emulator, Failed, Process, audit, check, folder, main, same, say, sluice, until_caught_up,
    write_project,
)

HUB = "readings"
TABLE = f"bronze.{HUB}"
PARTITIONS = 4
CHECKPOINTS = "checkpoints"
# Where the second group starts: inside what the first one covers, so that their ranges overlap.
SECOND_START = 150
# A point that isn't reached for so long won't be.
POINT_SECONDS = 60
# How long a rival may keep a process from a point.
RIVAL_SECONDS = 10
FOREIGN_COMMITS = 100


def points():
    """The named points of a flush, as the binary itself lists them: a new one is in the loop at once."""
    said = subprocess.run([sluice(), "run", "--crash-at", "?"], capture_output=True, text=True, check=False).stderr
    listed = re.search(r"there are ([a-z, -]+)", said)
    check(listed, f"`sluice run` doesn't list its fault points:\n{said}")
    return listed[1].strip().split(", ")


class Producer:
    def __init__(self, emulator, place):
        ready = place / "ready.json"
        ready.write_text(json.dumps(emulator.ready))
        self.log = place / "producer.jsonl"
        self.child = subprocess.Popen(
            [sys.executable, str(here / "producer.py"), str(ready), HUB, str(PARTITIONS), str(self.log)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        same(self.child.stdout.readline().strip(), "sending", "what the producer says first")

    def tell(self, command):
        self.child.stdin.write(command + "\n")
        self.child.stdin.flush()
        answer = self.child.stdout.readline().strip()
        check(answer, f"the producer ended with {self.child.poll()} at `{command}`")
        return answer

    def end(self):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()


class Runner:
    """`sluice run` of one project, started again after each death."""

    def __init__(self, name, project):
        self.name = name
        self.project = project
        self.process = None

    def start(self, crash_at=None):
        arguments = [sluice(), "--project", self.project, "run"]
        if crash_at:
            arguments += ["--crash-at", crash_at]
        self.process = Process(arguments)

    def alive(self):
        return self.process is not None and self.process.child.poll() is None

    def check_alive(self):
        check(self.alive(), f"{self.name} ended by itself with {self.process.child.poll()}\n{self.process.said()}")

    def send(self, what):
        self.process.child.send_signal(what)

    def kill(self):
        self.check_alive()
        self.process.child.kill()
        self.process.child.wait()

    def stop(self):
        self.check_alive()
        same(self.process.stop(), 0, f"the exit code of {self.name} after SIGTERM")

    def end(self):
        if self.process:
            self.process.end()


class Soak:
    def __init__(self, place, emulator, azurite, seed):
        self.random = random.Random(seed)
        self.points = points()
        self.emulator = emulator
        self.azurite = azurite
        azurite.container(CHECKPOINTS)
        self.lake = place / "lake"
        self.table = str(self.lake / "bronze" / HUB)
        self.producer = Producer(emulator, place)
        self.hits = dict.fromkeys(self.points, 0)
        starts = {"first": 'start = "earliest"', "second": f"start = {{ sequence_number = {SECOND_START} }}"}
        self.runners = [Runner(name, self.project(place, emulator, name, start)) for name, start in starts.items()]

    def project(self, place, emulator, name, start):
        """One table, two projects: within one it would be refused."""
        storage = f"""
[state]
url = "{place / name / 'state'}"

[storage.azure]
account_name = "{AZURITE_ACCOUNT}"
account_key  = "{AZURITE_KEY}"
endpoint     = "{self.azurite.endpoint}"
"""
        project = write_project(place / name, emulator, {HUB: start}, lake=self.lake, storage=storage)
        file = project / "pipelines" / "outside" / f"{HUB}.toml"
        text = file.read_text().replace('consumer_group = "lakehouse"', f'consumer_group = "{name}"\ncheckpoint_store = "az://{CHECKPOINTS}"')
        file.write_text(text.replace('commit_every = "1s"', 'commit_every = "300ms"'))
        return project

    def versions(self):
        with contextlib.suppress(Exception):
            return deltalake.DeltaTable(self.table).version()
        return -1

    def wait_for_commits(self, count, seconds=POINT_SECONDS):
        """Until the table is `count` versions on: work is being done."""
        begun, deadline = self.versions(), time.monotonic() + seconds
        while self.versions() < begun + count:
            check(time.monotonic() < deadline, f"no {count} commits within {seconds} s: version {self.versions()} since {begun}")
            for runner in self.runners:
                if runner.process is not None and runner.process.child.poll() is not None:
                    runner.check_alive()
            time.sleep(0.05)

    def kill_at_random(self, runner):
        time.sleep(self.random.uniform(0.05, 2.5))
        runner.kill()
        runner.start()

    def kill_at_point(self, runner, point):
        """The process is started again so that it dies at the point, at one of its first passes."""
        runner.stop()
        others = [other for other in self.runners if other is not runner]
        if point == "schema-committed":
            # Whoever comes first commits the field: the other must not take it away.
            for other in others:
                other.stop()
        passes = self.random.randint(1, 2) if point != "schema-committed" else 1
        runner.start(crash_at=f"{point}:{passes}")
        if point == "schema-committed":
            self.producer.tell("evolve")
        if not self.dies(runner, RIVAL_SECONDS):
            # The rival has won every race to the point: without it there is nothing left to lose.
            for other in others:
                if other.alive():
                    other.stop()
            check(self.dies(runner, POINT_SECONDS), f"{runner.name} never came to `{point}`\n{runner.process.said()}")
        died = runner.process.child.returncode
        check(died < 0 or died >= 128, f"{runner.name} ended with {died} at `{point}`, and did not die\n{runner.process.said()}")
        self.hits[point] += 1
        for its in self.runners:
            if not its.alive():
                its.start()

    @staticmethod
    def dies(runner, seconds):
        try:
            runner.process.child.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kills(self, count):
        # Each point once, then points and random moments as they come; both processes in turn.
        for number in range(count):
            runner = self.runners[number % 2]
            point = self.points[number] if number < len(self.points) else self.random.choice([None, None, None, *self.points])
            started = time.monotonic()
            if point:
                self.kill_at_point(runner, point)
            else:
                self.kill_at_random(runner)
            self.wait_for_commits(2)
            if number % 10 == 9:
                self.producer.tell("evolve")
            say(f"  kill {number + 1} of {count}: {runner.name} at {point or 'a random moment'}, {time.monotonic() - started:.1f} s")

    def zombie(self):
        """Asleep while the other goes on, then woken with all that it held."""
        zombie, other = self.runners
        zombie.send(signal.SIGSTOP)
        self.wait_for_commits(5)
        zombie.send(signal.SIGCONT)
        self.wait_for_commits(5)
        for runner in self.runners:
            runner.check_alive()
        say(f"  {zombie.name} was put to sleep, and woken after 5 commits of {other.name}")

    def zombie_after_cleanup(self):
        """Asleep while a stranger commits 100 times, writes a checkpoint and cleans the log up below it."""
        other, zombie = self.runners
        zombie.send(signal.SIGSTOP)
        asleep_at = self.versions()
        table = deltalake.DeltaTable(self.table)
        deadline, number = time.monotonic() + 2 * POINT_SECONDS, 0
        while number < FOREIGN_COMMITS:
            try:
                table.alter.set_table_description(f"a stranger's word {number}")
                number += 1
            except deltalake.exceptions.CommitFailedError:
                # It gives up after 15 lost races, and the other runner wins many on a long log: one commit
                # while that holds its breath.
                check(time.monotonic() < deadline, f"a stranger landed only {number} commits")
                other.send(signal.SIGSTOP)
                try:
                    table = deltalake.DeltaTable(self.table)
                    table.alter.set_table_description(f"a stranger's word {number}")
                    number += 1
                finally:
                    other.send(signal.SIGCONT)
        table.alter.set_table_properties({"delta.logRetentionDuration": "interval 0 days"})
        self.wait_for_commits(2)
        other.stop()
        time.sleep(1.1)
        table = deltalake.DeltaTable(self.table)
        table.create_checkpoint()
        table.cleanup_metadata()
        oldest = min(int(path.stem) for path in (pathlib.Path(self.table) / "_delta_log").glob("*.json"))
        check(oldest > asleep_at + 1, f"the log begins at {oldest}; it was to be cleaned up beyond {asleep_at + 1}")
        # It may go on, or end with an error of its own; what it must not do is land a commit unseen, or hang.
        woken_at, deadline = self.versions(), time.monotonic() + POINT_SECONDS
        zombie.send(signal.SIGCONT)
        while zombie.alive() and self.versions() < woken_at + 2:
            check(time.monotonic() < deadline, f"{zombie.name} does nothing since it was woken\n{zombie.process.said()}")
            time.sleep(0.05)
        if zombie.alive():
            zombie.stop()
        else:
            say(f"  {zombie.name} ended with {zombie.process.child.returncode}: {zombie.process.said(300).strip()}")
        deltalake.DeltaTable(self.table).alter.set_table_properties({"delta.logRetentionDuration": "interval 30 days"})
        for runner in self.runners:
            runner.start()
        self.wait_for_commits(3)
        say(f"  {zombie.name} slept at version {asleep_at}, and was woken with a log that begins at {oldest}")

    def settle(self):
        self.producer.tell("rate 0")
        numbers = json.loads(self.producer.tell("stop"))
        for runner in self.runners:
            runner.stop()
        for runner in self.runners:
            until_caught_up(runner.project)
        wrong, kinds = judge(self.table, self.producer.log)
        for line in wrong[:20]:
            say(f"    {line}")
        check(not wrong, f"{len(wrong)} numbers are wrong of {kinds.total()}")
        same(len(sent_of(self.producer.log)), sum(numbers.values()), "numbers in the producer's log")
        say(f"  judge: {kinds.total()} numbers, each once: {kinds['row']} rows, {kinds['bad']} dead letters, version {self.versions()}")
        proof = audit(self.runners[0].project, TABLE)
        same(
            (proof["complete"], proof["rows"], proof["rejected"], proof["missing"], proof["duplicates"]),
            (True, kinds["row"], kinds["bad"], 0, 0), "the audit",
        )
        say("  audit: complete, with the same counts")
        for runner in self.runners:
            same(self.checkpoints(runner.name), {partition: end - 1 for partition, end in numbers.items()}, f"checkpoints of {runner.name}")
        say("  checkpoints: at the last number, as the official checkpoint store reads them")

    def checkpoints(self, group):
        """Partition to number, as a processor of the official SDK would take them over."""
        from azure.eventhub.extensions.checkpointstoreblob import BlobCheckpointStore

        store = BlobCheckpointStore(self.azurite.endpoint, CHECKPOINTS, credential=AZURITE_KEY)
        with contextlib.closing(store):
            listed = store.list_checkpoints("localhost", HUB, group)
        return {checkpoint["partition_id"]: checkpoint["sequence_number"] for checkpoint in listed}

    def start_together(self):
        """Both on an empty ledger. A ledger comes before any declared start: who looks only after the other's
        first commit goes on from that one's start, and that isn't what is to be seen here. Then once more."""
        for _ in range(10):
            for runner in self.runners:
                runner.start()
            self.wait_for_commits(3)
            log = "".join(path.read_text() for path in pathlib.Path(self.table, "_delta_log").glob("*.json"))
            starts = set(re.findall(r'"appId":"sluice:[^"]*:end:[^"]*:(\d+):(\d+)"', log))
            if {(str(partition), "0") for partition in range(PARTITIONS)} <= starts:
                say(f"  starts in the ledger: {', '.join(sorted({start for _, start in starts}, key=int))}")
                return
            for runner in self.runners:
                runner.kill()
            shutil.rmtree(self.lake)
            # They would come before the declared starts, too.
            self.azurite.empty(CHECKPOINTS)
        check(False, "the first never looked at an empty ledger")

    def run(self, kills):
        # The second start lies inside of what is there; then both at once, on a ledger that is empty.
        deadline = time.monotonic() + POINT_SECONDS
        while min(info["last_sequence_number"] for info in self.emulator.partitions_of(HUB, PARTITIONS).values()) < SECOND_START:
            check(time.monotonic() < deadline, "the producer doesn't send")
            time.sleep(0.2)
        self.start_together()
        self.kills(kills)
        self.zombie()
        self.zombie_after_cleanup()
        self.settle()
        say("  points hit: " + ", ".join(f"{point} {hits}" for point, hits in self.hits.items()))
        never = [point for point, hits in self.hits.items() if hits == 0]
        check(not never, f"never hit: {', '.join(never)}")

    def end(self):
        for runner in self.runners:
            runner.end()
        self.producer.end()


def run():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--kills", type=int, default=10)
    arguments.add_argument("--seed", type=int, default=int(os.environ.get("SLUICE_SOAK_SEED", time.time_ns() % 10**6)))
    options = arguments.parse_args()
    check(options.kills >= len(points()), f"at least {len(points())} kills, one for each named point")
    say(f"  seed {options.seed}")
    with folder() as place, Emulator({HUB: PARTITIONS}) as emulator, Azurite() as azurite:
        soak = Soak(place, emulator, azurite, options.seed)
        try:
            soak.run(options.kills)
        finally:
            soak.end()


if __name__ == "__main__":
    main(run)
