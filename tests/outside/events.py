"""Events as a team would send them: nested records, optional fields, enums, decimals, arrays, maps.

Sent by the official client and framed by the official encoder; what was sent is the producer's own
log, against which readers are compared.
"""

import datetime
import decimal
import json
import random

from azure.core.pipeline.transport import RequestsTransport
from azure.eventhub import EventData, EventHubProducerClient
from azure.identity import ManagedIdentityCredential
from azure.schemaregistry import SchemaRegistryClient
from azure.schemaregistry.encoder.avroencoder import AvroEncoder

GROUP = "outside"
SCHEMA = {
    "type": "record",
    "name": "Lead",
    "namespace": "outside",
    "fields": [
        {"name": "lead_id", "type": "string"},
        {"name": "number", "type": "long"},
        {"name": "score", "type": "double"},
        {"name": "qualified", "type": "boolean"},
        {"name": "premium", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
        {"name": "seen_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "channel", "type": {"type": "enum", "name": "Channel", "symbols": ["WEB", "PHONE", "BROKER"]}},
        {"name": "campaign", "type": ["null", "string"], "default": None},
        {"name": "contact", "type": {"type": "record", "name": "Contact", "fields": [
            {"name": "name", "type": "string"},
            {"name": "age", "type": ["null", "int"], "default": None},
            {"name": "address", "type": {"type": "record", "name": "Address", "fields": [
                {"name": "city", "type": "string"}, {"name": "postcode", "type": "string"}]}},
        ]}},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "answers", "type": {"type": "map", "values": "long"}},
    ],
}
COLUMNS = [field["name"] for field in SCHEMA["fields"]]
MAPS = ("answers",)


def value(number, random_source):
    """One event's fields; edges come often enough to be met in every table."""
    r = random_source
    return {
        "lead_id": f"lead-{number:08d}",
        "number": r.choice([0, -1, 2**63 - 1, -(2**63), number, number, number]),
        "score": r.choice([0.0, -0.0, 1e300, 5e-324, r.random(), r.random()]),
        "qualified": r.random() < 0.5,
        "premium": decimal.Decimal(r.randrange(-10**12 + 1, 10**12)).scaleb(-2),
        "seen_at": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(milliseconds=r.randrange(10**10)),
        "channel": r.choice(["WEB", "PHONE", "BROKER"]),
        "campaign": r.choice([None, "", "spring", "Frühjahr ☀", "it's \"quoted\""]),
        "contact": {
            "name": r.choice(["Ada", "Grace", "Zoë", ""]),
            "age": r.choice([None, 0, 42, -(2**31), 2**31 - 1]),
            "address": {"city": r.choice(["Köln", "Oslo"]), "postcode": f"{r.randrange(10**5):05d}"},
        },
        "tags": [r.choice(["a", "b", ""]) for _ in range(r.randrange(4))],
        "answers": {f"q{question}": r.randrange(-5, 5) for question in range(r.randrange(4))},
    }


def values(count, seed=1):
    random_source = random.Random(seed)
    return [value(number, random_source) for number in range(count)]


class Loopback(RequestsTransport):
    """Takes the registry client, which knows https alone, to a plain registry on loopback."""

    def send(self, request, **options):
        request.url = request.url.replace("https://127.0.0.1", "http://127.0.0.1", 1)
        return super().send(request, **options)


class AnyCredential:
    """For an emulator without keys, which takes any token."""

    def get_token(self, *_, **__):
        from azure.core.credentials import AccessToken

        return AccessToken("anything", 2**31 - 1)


def registry_client(emulator):
    scheme, namespace = emulator.schema_registry.split("://")
    if scheme == "https":
        return SchemaRegistryClient(namespace, ManagedIdentityCredential(), connection_verify=emulator.ca_file)
    return SchemaRegistryClient(namespace, AnyCredential(), transport=Loopback())


def encoder(emulator):
    return AvroEncoder(client=registry_client(emulator), group_name=GROUP, auto_register=True)


def producer(emulator, hub):
    options = {}
    if emulator.ca_file:
        options = {"custom_endpoint_address": emulator.event_hubs.replace("amqps://", "sb://"), "connection_verify": emulator.ca_file}
    return EventHubProducerClient.from_connection_string(emulator.connection_string, eventhub_name=hub, **options)


def encoded(avro, event, schema=SCHEMA):
    return avro.encode(event, schema=json.dumps(schema), message_type=EventData)


def send(client, batch_options, events, most=1000):
    """Sends in batches as large as the client makes them."""
    batch = client.create_batch(**batch_options)
    for event in events:
        try:
            if len(batch) >= most:
                raise ValueError("full")
            batch.add(event)
        except ValueError:
            client.send_batch(batch)
            batch = client.create_batch(**batch_options)
            batch.add(event)
    if len(batch):
        client.send_batch(batch)


def send_values(emulator, hub, sent, partitions, schema=SCHEMA):
    """Half of the events to partitions in turn, half by key; gives partition to ids, in order, for the first half."""
    placed = {str(partition): [] for partition in range(partitions)}
    with encoder(emulator) as avro, producer(emulator, hub) as client:
        half = len(sent) // 2
        for partition in placed:
            mine = sent[int(partition):half:partitions]
            send(client, {"partition_id": partition}, [encoded(avro, event, schema) for event in mine])
            placed[partition] = [event["lead_id"] for event in mine]
        by_key = {}
        for position, event in enumerate(sent[half:]):
            by_key.setdefault(f"key-{position % 20}", []).append(event)
        for key, mine in by_key.items():
            send(client, {"partition_key": key}, [encoded(avro, event, schema) for event in mine])
    return placed
