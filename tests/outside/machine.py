"""The processes that the checks start and end: the emulator, Azurite, `sluice` itself.

Each check is a script that ends with 0 when all of it held. `SLUICE` names the binary to check,
`SLUICE_TEST_AZURITE` the Azurite that tests/provision installed; both have no default that could
check something else than what was meant.
"""

import contextlib
import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

# What a slow machine may take to start a server; longer means that it hangs.
START_SECONDS = 60
# What a clean stop may take.
STOP_SECONDS = 20

AZURITE_ACCOUNT = "devstoreaccount1"
# Published by Microsoft with the emulator: no secret.
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Failed(Exception):
    """What was checked doesn't hold."""


def check(holds, what):
    if not holds:
        raise Failed(what)


def same(found, expected, what):
    if found != expected:
        raise Failed(f"{what}: expected {expected!r}, found {found!r}")


def say(text):
    print(text, file=sys.stderr, flush=True)


def needed(variable):
    value = os.environ.get(variable)
    if not value:
        sys.exit(f"{variable} is not set: run this by tests/all, or set it as tests/provision says")
    return value


def sluice():
    return needed("SLUICE")


def main(run):
    """Runs a check and says how it ended; told to end, it ends its processes first."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    try:
        run()
    except Failed as failed:
        sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {failed}")
    say(f"{pathlib.Path(sys.argv[0]).name}: held, {time.monotonic() - started:.1f} s")


@contextlib.contextmanager
def folder(keep_on_failure=True):
    """A folder for one check; after a failure it stays, to be looked at."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="sluice-outside-"))
    try:
        yield path
    except BaseException:
        if keep_on_failure and os.environ.get("CI") != "true":
            say(f"left for a look: {path}")
        else:
            shutil.rmtree(path, ignore_errors=True)
        raise
    shutil.rmtree(path, ignore_errors=True)


class Process:
    """A child whose stdout lines are read as they come; stderr goes to a file that failures show.
    `before` is called in the child before it becomes the program."""

    def __init__(self, arguments, env=None, cwd=None, before=None):
        self.arguments = [str(argument) for argument in arguments]
        self.errors = tempfile.NamedTemporaryFile(mode="w+", prefix="sluice-stderr-", suffix=".log")
        self.child = subprocess.Popen(
            self.arguments, stdout=subprocess.PIPE, stderr=self.errors, env=env, cwd=cwd, text=True, stdin=subprocess.DEVNULL,
            preexec_fn=before,
        )
        self.lines = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.child.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def line(self, seconds=START_SECONDS):
        """The next line of stdout, or a failure that shows what the child said."""
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            raise Failed(f"no line from {self.arguments[:3]} within {seconds} s\n{self.said()}") from None
        if line is None:
            raise Failed(f"{self.arguments[:3]} ended with {self.child.wait()}\n{self.said()}")
        return line

    def said(self, last=4000):
        self.errors.flush()
        return pathlib.Path(self.errors.name).read_text(errors="replace")[-last:]

    def stop(self, how=signal.SIGTERM):
        """Asks it to end, and gives its exit code."""
        if self.child.poll() is None:
            self.child.send_signal(how)
        try:
            return self.child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise Failed(f"{self.arguments[:3]} didn't end within {STOP_SECONDS} s\n{self.said()}") from None

    def ended(self, seconds):
        """Its exit code, once it ends by itself; one that doesn't is killed."""
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end()
            raise Failed(f"{self.arguments[:4]} didn't end by itself within {seconds} s\n{self.said()}") from None

    def end(self):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()


class Emulator:
    """`sluice emulator`, ready. `hubs` maps names to partitions."""

    def __init__(self, hubs, *flags, env=None):
        arguments = [sluice(), "emulator", "--format", "json", "--port", "0", "--registry-port", "0", "--control-port", "0"]
        for name, partitions in hubs.items():
            arguments += ["--hub", f"{name}:{partitions}"]
        self.process = Process(arguments + list(flags), env=env)
        ready = json.loads(self.process.line())
        self.ready = ready
        self.event_hubs = ready["event_hubs"]
        self.connection_string = ready["connection_string"]
        self.schema_registry = ready["schema_registry"]
        self.control = ready["control"]
        self.identity_endpoint = ready["identity_endpoint"]
        self.ca_file = ready.get("ca_file")

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is not None:
            if os.environ.get("CI") == "true" or os.environ.get("SLUICE_SHOW"):
                say(self.process.said())
            self.process.end()
            return
        same(self.process.stop(), 0, "the emulator's exit code after SIGTERM")

    def ask(self, method, path, body=None):
        """The control API's answer, as JSON or None."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.control + path, data=data, method=method, headers={"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise Failed(f"{method} {path}: {error.code} {error.read().decode()}") from None
        return json.loads(text) if text else None

    def partitions_of(self, hub, partitions):
        """Partition to what the emulator says of it."""
        return {str(p): self.ask("GET", f"/hubs/{hub}/partitions/{p}") for p in range(partitions)}


class Azurite:
    """Azurite on free ports, in memory."""

    def __init__(self):
        import socket

        def free():
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                return probe.getsockname()[1]

        self.place = tempfile.TemporaryDirectory(prefix="sluice-azurite-")
        blob, queue_port, table = free(), free(), free()
        self.endpoint = f"http://127.0.0.1:{blob}/{AZURITE_ACCOUNT}"
        self.queue_endpoint = f"http://127.0.0.1:{queue_port}/{AZURITE_ACCOUNT}"
        self.process = Process(
            [needed("SLUICE_TEST_AZURITE"), "--inMemoryPersistence", "--skipApiVersionCheck", "--silent", "--disableTelemetry",
             "--blobHost", "127.0.0.1", "--queueHost", "127.0.0.1", "--tableHost", "127.0.0.1",
             "--blobPort", str(blob), "--queuePort", str(queue_port), "--tablePort", str(table)],
            cwd=self.place.name,
        )
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", blob), timeout=1).close()
                return
            check(self.process.child.poll() is None, f"azurite ended\n{self.process.said()}")
            check(time.monotonic() < deadline, f"azurite didn't listen within {START_SECONDS} s")
            time.sleep(0.1)

    def container(self, name):
        from azure.storage.blob import BlobServiceClient

        with BlobServiceClient(self.endpoint, credential=AZURITE_KEY) as service:
            service.create_container(name)

    def empty(self, name):
        from azure.storage.blob import BlobServiceClient

        with BlobServiceClient(self.endpoint, credential=AZURITE_KEY) as service:
            container = service.get_container_client(name)
            for blob in container.list_blob_names():
                container.delete_blob(blob)

    def storage_options(self):
        """For deltalake and polars."""
        return {"account_name": AZURITE_ACCOUNT, "account_key": AZURITE_KEY, "endpoint": self.endpoint, "allow_http": "true"}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.end()
        self.place.cleanup()


def run(arguments, env=None, expect=0, seconds=300, cwd=None):
    """Runs `sluice` to its end and gives its stdout; any other exit code than expected is a failure, where one is."""
    arguments = [sluice(), *map(str, arguments)]
    try:
        done = subprocess.run(arguments, env=env, cwd=cwd, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as late:
        said = (late.stderr or b"").decode(errors="replace")[-4000:]
        raise Failed(f"{arguments[1:]} took more than {seconds} s\n{said}") from None
    if expect is not None and done.returncode != expect:
        raise Failed(f"{arguments[1:]} ended with {done.returncode}, not {expect}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    if expect:
        return done.stdout, done.stderr
    return done.stdout


def until_caught_up(project, env=None, seconds=300):
    """`sluice run --until-caught-up`; gives its pipelines by name."""
    report = json.loads(run(["--project", project, "run", "--until-caught-up", "--format", "json"], env=env, seconds=seconds))
    return {pipeline["name"]: pipeline for pipeline in report["pipelines"]}


def audit(project, table, env=None, expect=0):
    out = run(["--project", project, "audit", table, "--format", "json"], env=env, expect=expect)
    return json.loads(out[0] if expect else out)


def write_project(path, emulator, pipelines, lake="lake", storage="", event_hubs=None, registry="", source="", schemas=None):
    """A project whose pipelines are named by hub; values of `pipelines` are extra TOML of `[source.event_hubs]`.

    `schemas` is the TOML of another registry than the emulator's.
    """
    path.mkdir(parents=True, exist_ok=True)
    schemas = schemas or f'[registry.azure]\nendpoint = "{emulator.schema_registry}"'
    event_hubs = event_hubs or f'connection_string = "{emulator.connection_string}"'
    (path / "sluice.toml").write_text(f"""
[project]
name  = "outside"
teams = ["outside"]

[lake]
url = "{lake}"
{storage}
[event_hubs]
{event_hubs}

{schemas}
{registry}

[serve]
address = "127.0.0.1:0"
""")
    team = path / "pipelines" / "outside"
    team.mkdir(parents=True, exist_ok=True)
    for hub, extra in pipelines.items():
        (team / f"{hub}.toml").write_text(f"""
[pipeline]
name  = "{hub}"
owner = "outside"

{source}
[source.event_hubs]
hub            = "{hub}"
consumer_group = "lakehouse"
{extra}

[sink]
table        = "bronze.{hub}"
commit_every = "1s"
""")
    return path
