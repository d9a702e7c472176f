"""Event Grid on this machine, from end to end: the emulator captures into Azurite and announces each blob to a queue
and to the webhook of `sluice run`, in either schema, as either event, with its spool in a folder and in a container; with every fifth announcement lost, others twice,
late and in another order, and a kill between the answer and the commit. Each event lands once, in the table that hears
both and in the one that hears the webhook alone. Tokens are made by PyJWT.

    webhook.py [--events N] [--partitions N]
"""

import argparse
import base64
import contextlib
import http.server
import io
import json
import pathlib
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import deltalake
import fastavro
import jwt
from azure.eventhub import EventData, EventHubProducerClient
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueServiceClient
from cryptography.hazmat.primitives.asymmetric import rsa

from capture import datum
from events import SCHEMA, values
from machine import AZURITE_ACCOUNT, AZURITE_KEY, Azurite, Emulator, Failed, Process, audit, check, folder, main, same, say, sluice, until_caught_up, write_project
from readers import read

HUB = "leads"
TABLES = (HUB, "archive")
CONTAINER = "capture"
SECRET = "outside-&=?%-secret-of-the-webhook"
FAULTS = {"lost": 0.2, "duplicated": 0.2, "delayed": 0.2, "reordered": 0.3, "delay": "2s"}
FORMS = [("eventgrid", "CaptureFileCreated"), ("cloudevents", "BlobCreated")]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def project(place, emulator, azurite, port, state, sweep_every, webhook):
    """`state` is where the spool lies: a folder or a container."""
    storage = f"""
[state]
url = "{state}"

[storage.azure]
account_name = "{AZURITE_ACCOUNT}"
account_key  = "{AZURITE_KEY}"
endpoint     = "{azurite.endpoint}"

{webhook}
"""
    made = write_project(place, emulator, {HUB: ""}, storage=storage)
    toml = made / "sluice.toml"
    toml.write_text(toml.read_text().replace('"127.0.0.1:0"', f'"127.0.0.1:{port}"'))
    (made / "schemas").mkdir(exist_ok=True)
    (made / "schemas" / "lead.avsc").write_text(json.dumps(SCHEMA))
    team = made / "pipelines" / "outside"
    text = (team / f"{HUB}.toml").read_text()
    begin, end = text.index("[source.event_hubs]"), text.index("[sink]")
    for name in TABLES:
        queue = f'queue       = "{azurite.queue_endpoint}/captures"' if name == HUB else ""
        (team / f"{name}.toml").write_text((text[:begin] + f"""
[source.capture]
hub         = "{HUB}"
url         = "az://{CONTAINER}/of/{HUB}"
sweep_every = "{sweep_every}"
{queue}

[decode]
schema  = "schemas/lead.avsc"
framing = "bare"

""" + text[end:]).replace(f'name  = "{HUB}"', f'name  = "{name}"').replace(f"bronze.{HUB}", f"bronze.{name}"))
    return made


def wait_until(holds, seconds, what):
    deadline = time.monotonic() + seconds
    while not holds():
        check(time.monotonic() < deadline, f"{what}: not within {seconds} s")
        time.sleep(0.1)


def rows_of(made, table):
    with contextlib.suppress(Exception):
        return deltalake.DeltaTable(str(made / "lake" / "bronze" / table)).to_pyarrow_dataset().count_rows()
    return 0


class Spool:
    """What `sluice run` answered for and didn't settle yet: the texts, in a folder or in a container."""

    def __init__(self, place, azurite):
        self.folder = None if place.startswith("az://") else pathlib.Path(place) / "webhook"
        self.container = None
        if self.folder is None:
            service = BlobServiceClient(azurite.endpoint, credential=AZURITE_KEY)
            self.container = service.create_container(place.removeprefix("az://"))

    def texts(self, poison=False):
        kind = "poison/" if poison else ""
        if self.folder:
            return [file.read_text() for file in self.folder.glob(f"{kind}*.json")]
        names = [name for name in self.container.list_blob_names(name_starts_with=f"webhook/{kind}") if "poison/" not in name or poison]
        return [self.container.download_blob(name).readall().decode() for name in names]


def ask(url, body=b"[]", method="POST", headers=None):
    request = urllib.request.Request(url, data=body, method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


class Running:
    """`sluice run`, at work, with all that it says kept."""

    def __init__(self, made, port, *flags):
        self.port = port
        self.process = Process([sluice(), "--project", made, "-vvv", "run", *flags])
        wait_until(self.is_ready, 60, "the run is ready")

    def is_ready(self):
        check(self.process.child.poll() is None, f"it ended\n{self.process.said()}")
        with contextlib.suppress(OSError):
            return ask(f"http://127.0.0.1:{self.port}/readyz", body=None, method="GET") == 200
        return False

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return {line.split(" ")[0]: float(line.split(" ")[1]) for line in lines if line.startswith("sluice_source_webhook")}

    def silent_of(self, secret):
        said = self.process.said(last=50_000_000)
        check("webhook" in said, "it says what came to the webhook")
        for form in (secret, urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret)):
            check(form not in said, "the secret stands in the log")


class Sender:
    def __init__(self, emulator, partitions, seed):
        self.producer = EventHubProducerClient.from_connection_string(emulator.connection_string, eventhub_name=HUB)
        self.bodies = [datum(event) for event in values(300, seed=seed)]
        self.partitions = partitions
        self.sent = 0

    def send(self, events, bursts=20, pause=0.15):
        for burst in range(bursts):
            batch = [EventData(self.bodies[(self.sent + n) % len(self.bodies)]) for n in range(events // bursts)]
            self.producer.send_batch(batch, partition_id=str(burst % self.partitions))
            self.sent += len(batch)
            time.sleep(pause)


def captured(container):
    """Every (partition, number) that fastavro finds in the blobs."""
    found = []
    for blob in container.list_blob_names():
        partition = blob.split("/")[4]
        for record in fastavro.reader(io.BytesIO(container.download_blob(blob).readall())):
            found.append((partition, record["SequenceNumber"]))
    same(len(found), len(set(found)), "each event is in one blob")
    return set(found)


def end_to_end(place, options, schema, event, in_container):
    state = "az://state" if in_container else str(place / "state")
    say(f"  {event} as {schema}, the state in {'a container' if in_container else 'a folder'}")
    port = free_port()
    url = f"http://127.0.0.1:{port}/eventgrid?code={urllib.parse.quote(SECRET, safe='')}"
    with Azurite() as azurite:
        azurite.container(CONTAINER)
        container = BlobServiceClient(azurite.endpoint, credential=AZURITE_KEY).get_container_client(CONTAINER)
        queues = QueueServiceClient(azurite.queue_endpoint, credential=AZURITE_KEY)
        flags = [
            "--capture", f"az://{CONTAINER}/of/{HUB}", "--capture-every", "500ms", "--storage-account", AZURITE_ACCOUNT,
            "--storage-key", AZURITE_KEY, "--storage-endpoint", azurite.endpoint, "--announce-webhook", url,
            "--announce-queue", f"{azurite.queue_endpoint}/captures", "--announce-as", event, "--announce-schema", schema,
            "--announce-retry", "200ms", "--announce-seed", "11", "-vvv",
        ]
        queues.create_queue("captures")
        with Emulator({HUB: options.partitions}, *flags) as emulator:
            webhook = f'[webhook]\nsecret = "{SECRET}"'
            settings = [place, emulator, azurite, port, state]
            spool = Spool(state, azurite)
            made = project(*settings, "1h", webhook)
            sender = Sender(emulator, options.partitions, seed=5)
            running = Running(made, port)
            try:
                told_whole(made, emulator, sender, options, spool)
                killed(made, emulator, sender, options, settings, webhook, running, spool)
                running = Running(made, port)
                told_badly(made, emulator, sender, options, running, spool)
                strangers(port)
                same(running.process.stop(), 0, "the exit code after SIGTERM")
                running.silent_of(SECRET)
            except Failed:
                say(running.process.said())
                raise
            finally:
                running.process.end()
            check(SECRET not in emulator.process.said(last=10_000_000), "the emulator keeps the secret to itself")
            sender.producer.close()
        keys = captured(container)
        same(len(keys), sender.sent, "what fastavro finds in the blobs, and what was sent")
        for table in TABLES:
            found = read("deltalake", str(made / "lake" / "bronze" / table), ["_partition", "_sequence_number"])
            found = [(row["_partition"], row["_sequence_number"]) for row in found]
            same(len(found), len(keys), f"rows of {table}")
            same(set(found), keys, f"keys of {table}")
            proof = audit(made, f"bronze.{table}")
            same((proof["complete"], proof["rows"], proof["duplicates"]), (True, len(keys), 0), f"the audit of {table}")
        left = until_caught_up(made)
        same([left[table]["committed"] for table in TABLES], [0, 0], "what is left for another run")
        say(f"  {len(keys)} events in {len(list(container.list_blob_names()))} blobs, once each in both tables")


def told_whole(made, emulator, sender, options, spool):
    """Nothing is lost, and nobody sweeps for an hour: what lands was announced."""
    sender.send(options.events // 4)
    wait_until(lambda: all(rows_of(made, table) == sender.sent for table in TABLES), 90, "what was announced in both tables")
    wait_until(lambda: not spool.texts(), 30, "an empty spool")
    told = emulator.ask("GET", "/announcements")
    check(told["webhook"]["sent"] == told["webhook"]["announced"] > 0, f"each blob was announced: {told}")


def killed(made, emulator, sender, options, settings, webhook, running, spool):
    """Killed between its answers and its commit, it has the announcements on the disk, and takes them up again."""
    same(running.process.stop(), 0, "the exit code after SIGTERM")
    running = Running(made, settings[3], "--crash-at", "data-staged:2")
    try:
        sender.send(options.events // 4)
        check(running.process.ended(60) != 0, "it kills itself")
    finally:
        running.process.end()
    kept = spool.texts()
    check(kept, "announcements outlive the kill")
    for text in kept:
        json.loads(text)
    say(f"  killed with {len(kept)} announcements in the spool")
    project(*settings, "5s", webhook)


def told_badly(made, emulator, sender, options, running, spool):
    wait_until(lambda: all(rows_of(made, table) == sender.sent for table in TABLES), 90, "what the killed run left")
    emulator.ask("PUT", "/announcements/faults", FAULTS)
    sender.send(options.events // 2, bursts=60)
    wait_until(lambda: all(rows_of(made, table) == sender.sent for table in TABLES), 120, "every event in both tables")
    wait_until(lambda: not spool.texts(), 90, "an empty spool")
    told = emulator.ask("GET", "/announcements")
    for listener in ("queue", "webhook"):
        for fault in ("lost", "duplicated", "delayed", "reordered"):
            check(told[listener][fault] > 0, f"some are {fault}: {told}")
    same(spool.texts(poison=True), [], "what could not be settled")
    counted = running.metrics()
    check(counted['sluice_source_webhook_requests_total{outcome="taken"}'] > 0, f"requests are counted: {counted}")
    same(counted["sluice_source_webhook_waiting_requests"], 0, "requests that wait")
    say(f"  {told}")


def strangers(port):
    url = f"http://127.0.0.1:{port}/eventgrid"
    for wrong in ("", "?code=", f"?code={SECRET[:-1]}", f"?key={urllib.parse.quote(SECRET)}"):
        same(ask(url + wrong), 401, f"the answer to `{wrong[:6]}`")
    same(ask(url, headers={"Authorization": f"Bearer {SECRET}"}), 200, "the answer to the secret in a header")
    same(ask(url, body=b"{", headers={"Authorization": f"Bearer {SECRET}"}), 400, "the answer to torn JSON")


def entra(place):
    """A tenant on loopback, and tokens that PyJWT signs."""
    say("  tokens of Entra")
    tenant, audience, app = "11111111-2222-3333-4444-555555555555", "api://webhook", "4962773b-9cdb-44cf-a8bf-237846a00ab7"
    keys = {name: rsa.generate_private_key(public_exponent=65537, key_size=2048) for name in ("told", "untold")}
    told = jwt.algorithms.RSAAlgorithm.to_jwk(keys["told"].public_key(), as_dict=True) | {"kid": "told", "use": "sig"}

    class Keys(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"keys": [told]}).encode()
            known = self.path == f"/{tenant}/discovery/v2.0/keys"
            self.send_response(200 if known else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keys)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    authority = f"http://127.0.0.1:{server.server_port}"
    webhook = f'[webhook.entra]\ntenant_id = "{tenant}"\naudience = "{audience}"\nauthority = "{authority}"'
    port = free_port()
    url = f"http://127.0.0.1:{port}/eventgrid"

    def answer(key="told", kid="told", algorithm="RS256", **changes):
        now = int(time.time())
        claims = {"iss": f"{authority}/{tenant}/v2.0", "aud": audience, "azp": app, "iat": now, "nbf": now, "exp": now + 600}
        secret = keys[key] if algorithm == "RS256" else base64.b64decode(AZURITE_KEY)
        token = jwt.encode(claims | changes, secret, algorithm=algorithm, headers={"kid": kid})
        return ask(url, headers={"Authorization": f"Bearer {token}"})

    with Azurite() as azurite, Emulator({HUB: 1}) as emulator:
        azurite.container(CONTAINER)
        QueueServiceClient(azurite.queue_endpoint, credential=AZURITE_KEY).create_queue("captures")
        running = Running(project(place, emulator, azurite, port, "state", "1h", webhook), port)
        try:
            same(answer(), 200, "the answer to a token of Event Grid")
            same(answer(iss=f"https://sts.windows.net/{tenant}/", azp=None, appid=app), 200, "the answer to one of version 1")
            same(ask(url), 401, "the answer to nothing")
            for what, wrong in {
                "another key": answer(key="untold"), "an unknown key": answer(kid="untold"), "HMAC": answer(algorithm="HS256"),
                "another audience": answer(aud="api://other"), "another tenant": answer(iss=f"{authority}/other/v2.0"),
                "another app": answer(azp=tenant), "no app": answer(azp=None), "an old one": answer(exp=int(time.time()) - 301),
                "one of tomorrow": answer(nbf=int(time.time()) + 3600),
            }.items():
                same(wrong, 401, f"the answer to {what}")
            same(running.process.stop(), 0, "the exit code after SIGTERM")
        finally:
            running.process.end()
    server.shutdown()


def run():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--events", type=int, default=8_000)
    arguments.add_argument("--partitions", type=int, default=4)
    options = arguments.parse_args()
    with folder() as place:
        entra(place / "entra")
        for index, (schema, event) in enumerate(FORMS):
            end_to_end(place / str(index), options, schema, event, in_container=index == 1)


if __name__ == "__main__":
    main(run)
