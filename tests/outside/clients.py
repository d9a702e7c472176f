"""The official Python clients against `sluice emulator`, unchanged: events and registry.

    clients.py [--runs N]     N runs in a row without one that fails (50 by hand, 5 in CI)
"""

import argparse
import contextlib
import datetime
import json
import socket
import threading
import time

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.eventhub import EventData, EventHubConsumerClient, EventHubProducerClient
from azure.eventhub.exceptions import ConnectError, ConnectionLostError, EventHubError
from azure.identity import ManagedIdentityCredential
from azure.schemaregistry import SchemaFormat, SchemaRegistryClient
from azure.schemaregistry.encoder.avroencoder import AvroEncoder

from machine import Emulator, Failed, check, main, same, say

HUB = "leads"
PARTITIONS = 4
SCHEMA = json.dumps({
    "type": "record", "name": "Lead", "namespace": "conversions",
    "fields": [{"name": "id", "type": "string"}, {"name": "score", "type": "double"}],
})
WIDER = json.dumps({
    "type": "record", "name": "Lead", "namespace": "conversions",
    "fields": [{"name": "id", "type": "string"}, {"name": "score", "type": "double"},
               {"name": "campaign", "type": ["null", "string"], "default": None}],
})
# A reader that has got nothing for so long won't get anything.
QUIET_SECONDS = 30


def producer(emulator, hub=HUB, **options):
    return EventHubProducerClient.from_connection_string(emulator.connection_string, eventhub_name=hub, retry_total=0, **options)


def consumer(emulator, hub=HUB, group="$Default", **options):
    return EventHubConsumerClient.from_connection_string(
        emulator.connection_string, consumer_group=group, eventhub_name=hub, retry_total=0, **options
    )


def receive(emulator, wanted, partition=None, start="-1", inclusive=False, owner_level=None, hub=HUB, options=None):
    """Reads until `wanted` events have come, and gives (partition, number, body, key) of each."""
    got, errors = [], []
    enough = threading.Event()
    client = consumer(emulator, hub, **(options or {}))

    def on_event(context, event):
        key = event.partition_key
        key = key.decode() if isinstance(key, bytes) else key
        got.append((context.partition_id, event.sequence_number, event.body_as_str(), key))
        if len(got) >= wanted:
            enough.set()

    def on_error(context, error):
        errors.append(error)
        enough.set()

    extra = {} if partition is None else {"partition_id": partition}
    if owner_level is not None:
        extra["owner_level"] = owner_level
    thread = threading.Thread(
        target=client.receive,
        kwargs=dict(on_event=on_event, on_error=on_error, starting_position=start, starting_position_inclusive=inclusive, **extra),
        daemon=True,
    )
    thread.start()
    enough.wait(QUIET_SECONDS)
    client.close()
    thread.join(QUIET_SECONDS)
    check(not thread.is_alive(), "the receiving client didn't end after close")
    if errors:
        raise errors[0]
    check(len(got) >= wanted, f"{len(got)} events came, not {wanted}")
    return got


def properties(emulator, options):
    with producer(emulator, **options) as client:
        found = client.get_eventhub_properties()
        same(found["eventhub_name"], HUB, "the hub's name")
        same(found["partition_ids"], [str(p) for p in range(PARTITIONS)], "the partition ids")
        age = datetime.datetime.now(datetime.timezone.utc) - found["created_at"]
        check(datetime.timedelta(0) <= age < datetime.timedelta(minutes=10), f"the hub was created {age} ago")
        first = client.get_partition_properties("0")
        check(first["is_empty"], "a new partition is not empty")
        same(first["last_enqueued_sequence_number"], -1, "the last number of an empty partition")


def sending(emulator, options):
    """Batches to a partition, batches with a key, round robin; gives when the second part began."""
    with producer(emulator, **options) as client:
        batch = client.create_batch(partition_id="1")
        for number in range(100):
            batch.add(EventData(f"to-1-{number}"))
        client.send_batch(batch)
        time.sleep(0.02)
        middle = datetime.datetime.now(datetime.timezone.utc)
        time.sleep(0.02)
        for key in ("alpha", "beta", "gamma"):
            batch = client.create_batch(partition_key=key)
            for number in range(10):
                event = EventData(f"{key}-{number}")
                event.properties = {"team": "conversions", "attempt": 1}
                event.content_type = "text/plain"
                batch.add(event)
            client.send_batch(batch)
        client.send_batch([EventData("anywhere")])
        same(client.get_partition_properties("1")["beginning_sequence_number"], 0, "the first number")
        total = sum(client.get_partition_properties(str(p))["last_enqueued_sequence_number"] + 1 for p in range(PARTITIONS))
        same(total, 131, "the events in the hub")
    return middle


def receiving(emulator, options, middle):
    # All partitions by one call: the client takes one event of each in turn, and waits at the empty ones.
    places = {partition for partition, _, _, _ in receive(emulator, 5, options=options)}
    check(len(places) > 1, "one call for all partitions reads one alone")

    everything = []
    for partition in map(str, range(PARTITIONS)):
        there = emulator.ask("GET", f"/hubs/{HUB}/partitions/{partition}")["events"]
        events = receive(emulator, there, partition=partition, options=options) if there else []
        same([number for _, number, _, _ in events], list(range(there)), f"the numbers of partition {partition}")
        everything += events
    same(len(everything), 131, "the events of all partitions")
    for key in ("alpha", "beta", "gamma"):
        places = {partition for partition, _, _, its in everything if its == key}
        same(len(places), 1, f"the partitions of key {key}")
        bodies = [body for _, _, body, its in everything if its == key]
        same(bodies, [f"{key}-{number}" for number in range(10)], f"the events of key {key}")
    first_hundred = [body for _, _, body, key in everything if body.startswith("to-1-")]
    same(first_hundred, [f"to-1-{number}" for number in range(100)], "the events to partition 1")

    after = receive(emulator, 50, partition="1", start=49, options=options)
    same(after[0][1], 50, "the first number after 49")
    at = receive(emulator, 51, partition="1", start=49, inclusive=True, options=options)
    same(at[0][1], 49, "the first number from 49 on")
    # By time: what was sent with keys came after the middle, what was sent to partition 1 before it.
    place = next(partition for partition, _, _, key in everything if key == "alpha")
    wanted = [event for event in everything if event[0] == place and not event[2].startswith("to-1-")]
    same(receive(emulator, len(wanted), partition=place, start=middle, options=options), wanted, "the events since a time")


def owner_levels(emulator, options):
    """A higher owner level takes the partition over, and the lower one hears of it."""
    lost = threading.Event()
    came = threading.Event()
    low = consumer(emulator, **options)
    thread = threading.Thread(
        target=low.receive,
        kwargs=dict(on_event=lambda context, event: came.set(), on_error=lambda context, error: lost.set(),
                    partition_id="1", starting_position="-1", owner_level=1),
        daemon=True,
    )
    thread.start()
    check(came.wait(QUIET_SECONDS), "the reader of level 1 got nothing")
    taken = receive(emulator, 100, partition="1", owner_level=2, options=options)
    same(taken[0][1], 0, "the first number of the reader of level 2")
    check(lost.wait(QUIET_SECONDS), "the reader of level 1 was not told that its partition was taken")
    low.close()
    thread.join(QUIET_SECONDS)


def refusals(emulator, options):
    with contextlib.suppress(ConnectError, EventHubError, ConnectionLostError), producer(emulator, hub="nowhere", **options) as client:
        client.get_eventhub_properties()
        raise Failed("a hub that isn't there has properties")
    with producer(emulator, **options) as client:
        batch = client.create_batch()
        try:
            batch.add(EventData(b"x" * (1024 * 1024 + 1)))
        except ValueError:
            return
        raise Failed("a batch took an event of more than 1 MiB")


def events(emulator, options):
    properties(emulator, options)
    middle = sending(emulator, options)
    receiving(emulator, options, middle)
    owner_levels(emulator, options)
    refusals(emulator, options)


def registry(emulator):
    """Register, look up and encode with the official clients, over TLS and with a managed identity."""
    namespace = emulator.schema_registry.removeprefix("https://")
    client = SchemaRegistryClient(namespace, ManagedIdentityCredential(), connection_verify=emulator.ca_file, retry_total=0)
    with client:
        first = client.register_schema("conversions", "conversions.Lead", SCHEMA, SchemaFormat.AVRO)
        again = client.register_schema("conversions", "conversions.Lead", SCHEMA, SchemaFormat.AVRO)
        same((again.id, again.version), (first.id, 1), "the same content, registered again")
        second = client.register_schema("conversions", "conversions.Lead", WIDER, "avro")
        same(second.version, 2, "the version of another content")
        check(second.id != first.id, "two contents have one id")
        same((first.group_name, first.name, first.format), ("conversions", "conversions.Lead", SchemaFormat.AVRO), "the properties")
        same(json.loads(client.get_schema(first.id).definition), json.loads(SCHEMA), "the schema by its id")
        by_version = client.get_schema(group_name="conversions", name="conversions.Lead", version=2)
        same((by_version.definition, by_version.properties.id), (WIDER, second.id), "the schema by its version")
        looked_up = client.get_schema_properties("conversions", "conversions.Lead", WIDER, SchemaFormat.AVRO)
        same(looked_up.id, second.id, "the id of a content")
        for lookup in (
            lambda: client.get_schema("0" * 32),
            lambda: client.get_schema(group_name="conversions", name="conversions.Lead", version=3),
            lambda: client.get_schema_properties("conversions", "conversions.Nobody", SCHEMA, SchemaFormat.AVRO),
        ):
            try:
                lookup()
            except ResourceNotFoundError as error:
                check("exist" in str(error) or "version" in str(error), f"an error without words: {error}")
            else:
                raise Failed("the registry has found what isn't there")
        try:
            client.register_schema("conversions", "conversions.Broken", '{"type":"recrd"}', SchemaFormat.AVRO)
        except HttpResponseError as error:
            same(error.status_code, 400, "the status for a broken schema")
        else:
            raise Failed("the registry took a broken schema")

        with AvroEncoder(client=client, group_name="conversions", auto_register=True) as encoder:
            sent = encoder.encode({"id": "a", "score": 0.5, "campaign": "x"}, schema=WIDER, message_type=EventData)
            same(sent.content_type, f"avro/binary+{second.id}", "the content type of an encoded event")
            with tls_producer(emulator) as events_client:
                events_client.send_batch([sent], partition_id="3")
            received = []
            with tls_consumer(emulator) as reader:
                done = threading.Event()

                def on_event(context, event):
                    received.append(encoder.decode(event))
                    done.set()

                thread = threading.Thread(
                    target=reader.receive, kwargs=dict(on_event=on_event, partition_id="3", starting_position="-1"), daemon=True
                )
                thread.start()
                check(done.wait(QUIET_SECONDS), "the encoded event didn't come back")
            thread.join(QUIET_SECONDS)
            same(received[0], {"id": "a", "score": 0.5, "campaign": "x"}, "the decoded event")


def tls_options(emulator):
    # With TLS the client takes the port from this address alone.
    return {"custom_endpoint_address": emulator.event_hubs.replace("amqps://", "sb://"), "connection_verify": emulator.ca_file}


def tls_producer(emulator):
    return producer(emulator, **tls_options(emulator))


def tls_consumer(emulator):
    return consumer(emulator, **tls_options(emulator))


def one_run():
    with Emulator({HUB: PARTITIONS}) as emulator:
        port = int(emulator.event_hubs.rsplit(":", 1)[1])
        check(port != 5672, "a free port was asked for")
        events(emulator, {})
    with Emulator({HUB: PARTITIONS}, "--tls", "--key", "sender=c2VjcmV0") as emulator:
        import os

        os.environ["IDENTITY_ENDPOINT"] = emulator.identity_endpoint
        os.environ["IDENTITY_HEADER"] = "anything"
        registry(emulator)


def run():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--runs", type=int, default=5)
    runs = arguments.parse_args().runs
    for number in range(1, runs + 1):
        started = time.monotonic()
        one_run()
        say(f"run {number} of {runs}: {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main(run)
