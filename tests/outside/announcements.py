"""Event Grid's announcements through a Storage Queue: duplicated, reordered, every fifth lost, in either schema,
plain and as base64. The blobs lie in Azurite, the events land once each, what is settled leaves the queue, and what
can't be settled goes to the poison queue.

    announcements.py [--events N] [--blobs N] [--partitions N]
"""

import argparse
import base64
import contextlib
import datetime
import io
import json
import random
import time

import deltalake
import fastavro
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueServiceClient

from capture import EVENT_DATA_2022, datum, table_of
from events import SCHEMA, values
from machine import AZURITE_ACCOUNT, AZURITE_KEY, Azurite, Emulator, Process, audit, check, folder, main, same, say, sluice, until_caught_up, write_project
from readers import read

HUB = "leads"
QUEUE = "captures"
CONTAINER = "capture"
POISON = "<hello> & goodbye"


def blobs_of(options):
    """(partition, first number, name, bytes) of each blob; times ascend, and so do names."""
    rows = values(500, seed=81)
    bodies = [datum(event) for event in rows]
    parsed = fastavro.parse_schema(json.loads(json.dumps(EVENT_DATA_2022)))
    begin = datetime.datetime(2026, 11, 25, tzinfo=datetime.timezone.utc)
    share = options.events // options.blobs
    next_number = dict.fromkeys(range(options.partitions), 0)
    for index in range(options.blobs):
        partition = index % options.partitions
        first = next_number[partition]
        next_number[partition] += share
        at = begin + datetime.timedelta(minutes=index // options.partitions)
        records = [
            {
                "SequenceNumber": number, "Offset": str(number * 64), "EnqueuedTimeUtc": "11/25/2026 12:00:00 AM",
                "SystemProperties": {"x-opt-enqueued-time": int(at.timestamp() * 1000)}, "Properties": {},
                "Body": bodies[number % len(bodies)],
            }
            for number in range(first, first + share)
        ]
        out = io.BytesIO()
        fastavro.writer(out, parsed, records, codec="deflate" if index % 2 else "null")
        window = at + datetime.timedelta(minutes=1)
        yield partition, first, share, f"emulator/{HUB}/{partition}/{window:%Y/%m/%d/%H/%M/%S}.avro", out.getvalue()


def notice(endpoint, partition, first, count, name, form):
    url = f"{endpoint}/{CONTAINER}/{name}"
    kind, data = "Microsoft.EventHub.CaptureFileCreated", {
        "fileUrl": url, "fileType": "AzureBlockBlob", "partitionId": str(partition), "sizeInBytes": 1, "eventCount": count,
        "firstSequenceNumber": first, "lastSequenceNumber": first + count - 1,
    }
    if form % 3 == 2:
        kind, data = "Microsoft.Storage.BlobCreated", {"api": "PutBlockList", "url": url, "contentLength": 1}
    key = "type" if form % 2 else "eventType"
    event = {key: kind, "subject": "x", "id": name, "data": data}
    text = json.dumps([event] if form % 5 == 0 else event)
    return base64.b64encode(text.encode()).decode() if form % 2 else text


def of_another_hub(azurite):
    """As base64, which it stays."""
    return notice(azurite.endpoint, 0, 0, 1, "emulator/claims/0/2026/11/25/00/00/00.avro", 1)


def project(place, emulator, azurite, queue_endpoint):
    storage = f"""
[storage.azure]
account_name = "{AZURITE_ACCOUNT}"
account_key  = "{AZURITE_KEY}"
endpoint     = "{azurite.endpoint}"
"""
    made = write_project(place, emulator, {HUB: ""}, storage=storage)
    (made / "schemas").mkdir()
    (made / "schemas" / "lead.avsc").write_text(json.dumps(SCHEMA))
    file = made / "pipelines" / "outside" / f"{HUB}.toml"
    text = file.read_text()
    begin, end = text.index("[source.event_hubs]"), text.index("[sink]")
    file.write_text(text[:begin] + f"""
[source.capture]
hub         = "{HUB}"
url         = "az://{CONTAINER}"
queue       = "{queue_endpoint}/{QUEUE}"
sweep_every = "20s"

[decode]
schema  = "schemas/lead.avsc"
framing = "bare"

""" + text[end:])
    # Another one of the same hub and queue: each hears of every blob.
    archive = file.read_text().replace(f'name  = "{HUB}"', 'name  = "archive"').replace(f"bronze.{HUB}", "bronze.archive").replace('"20s"', '"1h"')
    (file.parent / "archive.toml").write_text(archive)
    return made


def wait_until(holds, seconds, what):
    deadline = time.monotonic() + seconds
    while not holds():
        check(time.monotonic() < deadline, f"{what}: not within {seconds} s")
        time.sleep(0.25)


def run():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--events", type=int, default=40_000)
    arguments.add_argument("--blobs", type=int, default=80)
    arguments.add_argument("--partitions", type=int, default=8)
    options = arguments.parse_args()
    chance = random.Random(5)
    with folder() as place, Emulator({HUB: 1}) as emulator, Azurite() as azurite:
        azurite.container(CONTAINER)
        container = BlobServiceClient(azurite.endpoint, credential=AZURITE_KEY).get_container_client(CONTAINER)
        queues = QueueServiceClient(azurite.queue_endpoint, credential=AZURITE_KEY)
        queue = queues.create_queue(QUEUE)
        made = project(place / "project", emulator, azurite, azurite.queue_endpoint)
        running = Process([sluice(), "--project", made, "run"])
        try:
            wait_until((made / "lake" / "bronze" / HUB / "_delta_log").exists, 60, "the table")
            keys, told, announced = set(), set(), []
            for index, (partition, first, count, name, data) in enumerate(blobs_of(options)):
                container.upload_blob(name, data)
                keys |= {(str(partition), number) for number in range(first, first + count)}
                if index % 5 != 4:
                    told |= {(str(partition), number) for number in range(first, first + count)}
                    text = notice(azurite.endpoint, partition, first, count, name, index)
                    announced += [text] * (2 if index % 7 == 0 else 1)
            chance.shuffle(announced)
            queue.send_message(POISON)
            queue.send_message(of_another_hub(azurite))
            for text in announced:
                queue.send_message(text)
            say(f"  {len(keys)} events in {options.blobs} blobs; {len(announced)} announcements, a fifth of the blobs has none")
            wait_until(lambda: rows_of(made) == len(keys), 300, "every event in the table")
            wait_until(lambda: queue.get_queue_properties().approximate_message_count <= 2, 120, "every settled message gone")
            same(running.stop(), 0, "the exit code after SIGTERM")
        finally:
            running.end()
        found = read("deltalake", table_of(made), ["_partition", "_sequence_number", "_origin"])
        same(len(found), len(keys), "rows")
        same({(row["_partition"], row["_sequence_number"]) for row in found}, keys, "their keys")
        archived = {(row["_partition"], row["_sequence_number"]) for row in read("deltalake", str(made / "lake" / "bronze" / "archive"), ["_partition", "_sequence_number"])}
        check(told <= archived, f"the second pipeline of the queue lacks {len(told - archived)} of the {len(told)} events that were announced")
        counted = sum(1 for blob in container.list_blob_names() for _ in fastavro.reader(io.BytesIO(container.download_blob(blob).readall())))
        same(counted, len(found), "events that fastavro counts in the blobs")
        proof = audit(made, f"bronze.{HUB}")
        same((proof["complete"], proof["rows"], proof["duplicates"]), (True, len(keys), 0), "the audit")
        same(until_caught_up(made)[HUB]["committed"], 0, "what is left for another run")
        say("  every event once; settled messages are gone")
        poison(made, queue, queues, azurite)


def rows_of(made):
    with contextlib.suppress(Exception):
        return deltalake.DeltaTable(table_of(made)).to_pyarrow_dataset().count_rows()
    return 0


def poison(made, queue, queues, azurite):
    """What nobody can settle comes back, five times, and is moved away then."""
    # They are invisible until a minute after they were received; then time is made to pass.
    deadline, deliveries = time.monotonic() + 120, {}
    while sorted(deliveries.values())[-2:] < [5, 5]:
        for message in queue.receive_messages(messages_per_page=32, visibility_timeout=1):
            deliveries[message.id] = message.dequeue_count
        check(time.monotonic() < deadline, f"the messages don't come back: {deliveries}")
        time.sleep(1)
    running = Process([sluice(), "--project", made, "run"])
    try:
        away = queues.get_queue_client(f"{QUEUE}-poison")
        wait_until(lambda: moved(away) == 2, 60, "two messages in the poison queue")
        wait_until(lambda: queue.get_queue_properties().approximate_message_count == 0, 60, "an empty queue")
        same(running.stop(), 0, "the exit code after SIGTERM")
    finally:
        running.end()
    texts = {message.content for message in away.peek_messages(max_messages=32)}
    same(texts, {POISON, of_another_hub(azurite)}, "what the poison queue holds")
    say("  what nobody can settle: in the poison queue, as it came")


def moved(queue):
    try:
        return queue.get_queue_properties().approximate_message_count
    except ResourceNotFoundError:
        return 0


if __name__ == "__main__":
    main(run)
