"""CloudEvents as the official SDK of the project writes them, sent by the official Event Hubs client.

Binary mode by its AMQP binding and by its Kafka binding (whose headers the Kafka endpoint of Event Hubs hands on as
application properties of bytes; no such endpoint is here, so they are sent as these), structured mode, and batches of
structured events. Data is JSON, read by a pinned schema and kept as text, and Avro: by the official encoder's
content type in binary mode, in `data_base64` of the structured mode. The Avro format, which the SDK doesn't
write, is written by fastavro with the schema of the specification. Every attribute and every value is compared.

    cloudevents_sdk.py
"""

import datetime
import decimal
import json
import random

from azure.eventhub import EventData
from cloudevents.core.bindings import amqp, kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from events import COLUMNS, GROUP, MAPS, SCHEMA, producer, registry_client, send, values
from fifty_thousand import equal
from framings import datum
from machine import Emulator, audit, folder, main, same, say, check, until_caught_up, write_project
from readers import read

COUNT = 120
KEYS = ["_sequence_number", "_record_index", "_event_id", "_event_source", "_event_type", "_event_time", "_properties", "_rescued", "_schema_id"]
FORMAT = JSONFormat()
# As the specification gives it: formats/avro-format.md.
VALUE = {"type": "record", "name": "CloudEventData", "fields": [{"name": "value", "type": {"type": "map", "values": [
    "null", "boolean", {"type": "map", "values": "CloudEventData"}, {"type": "array", "items": "CloudEventData"}, "double", "string"]}}]}
AVRO_FORMAT = {"namespace": "io.cloudevents", "type": "record", "name": "CloudEvent", "fields": [
    {"name": "attribute", "type": {"type": "map", "values": ["null", "boolean", "int", "string", "bytes"]}},
    {"name": "data", "type": ["bytes", "null", "boolean", {"type": "map", "values": ["null", "boolean", VALUE, "double", "string"]},
                              {"type": "array", "items": "CloudEventData"}, "double", "string"]}]}


def attributes(number, r, **more):
    found = {
        "specversion": "1.0",
        "id": f"event-{number:05d}",
        "source": r.choice(["/leads", "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66", "https://example.com/a?b=c#d"]),
        "type": r.choice(["lead.generated", "com.example.Löschung"]),
        "time": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(milliseconds=r.randrange(10**10)),
        "datacontenttype": "application/json",
    }
    if number % 2:
        found |= {"subject": f"lead {number}", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    return found | more


def lead_json(event):
    """A lead as JSON has it: decimals and times as strings."""
    def plain(value):
        match value:
            case decimal.Decimal():
                return str(value)
            case datetime.datetime():
                return value.isoformat().replace("+00:00", "Z")
            case dict():
                return {key: plain(item) for key, item in value.items()}
            case _:
                return value
    return plain(event)


def amqp_data(message):
    """The SDK has a time as an integer of milliseconds, and the client takes integers for 32 bits: so one half is said to
    be a long, and the other a timestamp of AMQP, as the binding has it."""
    data = EventData(message.application_data)
    data.content_type = message.properties.get("content-type")
    data.properties = dict(message.application_properties)
    if millis := data.properties.get("cloudEvents_time"):
        is_long = millis % 2 == 0
        data.properties["cloudEvents_time"] = {"TYPE": "LONG", "VALUE": millis} if is_long else {"TYPE": "TIMESTAMP", "VALUE": millis}
    return data


def kafka_data(message):
    data = EventData(message.value)
    data.properties = dict(message.headers)
    return data


def structured(body, content_type):
    data = EventData(body)
    data.content_type = content_type
    return data


def publish(emulator, hub, events):
    with producer(emulator, hub) as client:
        send(client, {"partition_id": "0"}, events)


def table(project, hub, columns, maps=()):
    rows = read("deltalake", str(project / "lake" / "bronze" / hub), list(columns) + KEYS, (*maps, "_properties"))
    return sorted(rows, key=lambda row: (row["_sequence_number"], row["_record_index"]))


def text(value):
    """The canonical string of an attribute."""
    match value:
        case bool():
            return str(value).lower()
        case datetime.datetime():
            return value.isoformat().replace("+00:00", "Z")
    return str(value)


def compare_attributes(rows, sent, prefix, amqp_time=False):
    same(len(rows), len(sent), "rows")
    for row, (given, _) in zip(rows, sent):
        found = [row["_event_id"], row["_event_source"], row["_event_type"], row["_event_time"]]
        same(found, [given["id"], given["source"], given["type"], given["time"]], f"attributes of {given['id']}")
        properties = {name: text(value) for name, value in given.items() if value is not None}
        if amqp_time:
            millis = round(given["time"].timestamp() * 1000)
            properties["time"] = str(millis) if millis % 2 == 0 else given["time"].isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if prefix == "cloudEvents_" and not amqp_time:
            expected = {prefix + name: value for name, value in properties.items()}
        else:
            expected = {prefix + name: value for name, value in properties.items() if name != "datacontenttype"}
        found = dict(row["_properties"])
        if prefix == "ce_":
            same(found.pop("content-type", None), given["datacontenttype"], "the header with the content type")
        same(found, expected, f"properties of {given['id']}")


def compare_values(rows, sent, what):
    for row, (given, event) in zip(rows, sent):
        for column in COLUMNS:
            check(equal(row[column], event[column]), f"{what}, {given['id']}: `{column}` is {row[column]!r}, sent was {event[column]!r}")


def ran(project, hubs):
    """Events committed and rejected, of each hub."""
    report = until_caught_up(project)
    for hub, (committed, rejected) in hubs.items():
        same((report[hub]["committed"], report[hub]["rejected"]), (committed, rejected), f"events of {hub}, committed and rejected")
        proof = audit(project, f"bronze.{hub}")
        same((proof["complete"], proof["duplicates"], proof["missing"]), (True, 0, 0), f"the audit of {hub}: {proof['problems']}")


def pairs(r, seed, **more):
    return [(attributes(number, r, **more), event) for number, event in enumerate(values(COUNT, seed=seed))]


def project_of(path, emulator, decode):
    project = write_project(path, emulator, {hub: "" for hub in decode})
    (project / "lead.avsc").write_text(json.dumps(SCHEMA))
    for hub, toml in decode.items():
        file = project / "pipelines" / "outside" / f"{hub}.toml"
        file.write_text(file.read_text() + f"\n[decode]\n{toml}\n")
    return project


def of_json(place, emulator):
    r = random.Random(3)
    by_mode = {hub: pairs(r, seed) for seed, hub in enumerate(["amqp", "kafka", "structured", "batched", "texts"], 21)}

    def events(hub):
        return [CloudEvent(given, lead_json(event)) for given, event in by_mode[hub]]

    publish(emulator, "amqp", [amqp_data(amqp.to_binary(event, FORMAT)) for event in events("amqp")])
    publish(emulator, "kafka", [kafka_data(kafka.to_binary(event, FORMAT)) for event in events("kafka")])
    publish(emulator, "structured", [amqp_data(amqp.to_structured(event, FORMAT)) for event in events("structured")])
    # The Kafka header of the structured mode is a property of bytes too; the body is one and the same.
    publish(emulator, "texts", [kafka_data(kafka.to_structured(event, FORMAT)) for event in events("texts")])
    written = [FORMAT.write(event).decode() for event in events("batched")]
    sizes, batches = [1, 7, COUNT // 2, COUNT - COUNT // 2 - 8], []
    for size in sizes:
        batches.append(written[:size])
        written = written[size:]
    bad = ['{"specversion":"1.0","id":"x","source":"/x","type":"t","time":"2026-01-01T00:00:00Z","data":{"lead_id":1}}']
    bodies = [f"[{','.join(batch)}]".encode() for batch in batches]
    bodies.insert(2, f"[{','.join(batches[0] + bad)}]".encode())
    publish(emulator, "batched", [structured(body, "application/cloudevents-batch+json") for body in bodies])

    pinned = 'format = "json"\nschema = "lead.avsc"\nrequire = ["id", "source", "type", "time"]'
    project = project_of(place / "json", emulator, {hub: pinned for hub in ["amqp", "kafka", "structured", "batched"]} | {"texts": 'format = "json"'})
    ran(project, {hub: (COUNT, 0) for hub in ["amqp", "kafka", "structured", "texts"]} | {"batched": (len(sizes), 1)})
    for hub, prefix in [("amqp", "cloudEvents_"), ("kafka", "ce_"), ("structured", "cloudEvents_"), ("batched", "cloudEvents_")]:
        rows = table(project, hub, COLUMNS, MAPS)
        compare_attributes(rows, by_mode[hub], prefix, amqp_time=hub == "amqp")
        compare_values(rows, by_mode[hub], hub)
        same({row["_rescued"] for row in rows}, {None}, "what the schema doesn't know")
    found = [(row["_sequence_number"], row["_record_index"]) for row in table(project, "batched", [])]
    numbers = [0, 1, 3, 4]
    same(found, [(number, index) for number, size in zip(numbers, sizes) for index in range(size)], "positions of the events of batches")
    rows = table(project, "texts", ["body"])
    for row, (given, event) in zip(rows, by_mode["texts"]):
        same(json.loads(row["body"]), lead_json(event), f"the body of {given['id']}")
        same(row["_properties"].pop("content-type"), "application/cloudevents+json", "the header of the structured mode")
    compare_attributes(rows, by_mode["texts"], "cloudEvents_")
    say(f"  JSON: {COUNT} events each in binary mode by AMQP and by Kafka, structured, batched and as text; a bad batch rejected whole")


def of_avro(place, emulator):
    r = random.Random(4)
    with registry_client(emulator) as client:
        schema_id = client.register_schema(GROUP, "outside.Lead", json.dumps(SCHEMA), "Avro").id
    named = f"avro/binary+{schema_id}"
    by_mode = {hub: pairs(r, seed, datacontenttype=named) for seed, hub in enumerate(["binary", "enclosed", "written"], 31)}
    by_url = f"https://outside.servicebus.windows.net/$schemaGroups/$schemas/{schema_id}"
    by_mode["by_url"] = pairs(r, 34, datacontenttype="application/avro", dataschema=by_url)

    def events(hub):
        return [CloudEvent(given, datum(SCHEMA, event)) for given, event in by_mode[hub]]

    for hub in ["binary", "by_url"]:
        publish(emulator, hub, [amqp_data(amqp.to_binary(event, FORMAT)) for event in events(hub)])
    publish(emulator, "enclosed", [amqp_data(amqp.to_structured(event, FORMAT)) for event in events("enclosed")])
    bodies = [datum(AVRO_FORMAT, {"attribute": {name: text(value) for name, value in given.items()}, "data": datum(SCHEMA, event)})
              for given, event in by_mode["written"]]
    publish(emulator, "written", [structured(body, "application/cloudevents+avro") for body in bodies])
    project = project_of(place / "avro", emulator, {hub: 'format = "avro"' for hub in by_mode})
    ran(project, {hub: (COUNT, 0) for hub in by_mode})
    for hub in by_mode:
        rows = table(project, hub, COLUMNS, MAPS)
        compare_attributes(rows, by_mode[hub], "cloudEvents_", amqp_time=hub in ["binary", "by_url"])
        compare_values(rows, by_mode[hub], hub)
        same({row["_schema_id"] for row in rows}, {schema_id}, "the ids that the events name")
    say(f"  Avro: {COUNT} events each in binary mode, by `dataschema`, in `data_base64` and in the Avro format")


def policy(place, emulator):
    """What is missing or malformed: a dead letter where it is required, else null."""
    sound = {"cloudEvents_specversion": "1.0", "cloudEvents_id": "1", "cloudEvents_source": "/a", "cloudEvents_type": "t"}
    wrong = [{"cloudEvents_id": ""}, {"cloudEvents_source": "not a URI"}, {"cloudEvents_type": None}]

    def sent():
        for change in [{}] + wrong:
            data = EventData(b'{"n": 1}')
            data.properties = {name: value for name, value in (sound | change).items() if value is not None}
            yield data

    for hub in ["strict", "lenient"]:
        publish(emulator, hub, list(sent()))
    project = project_of(place / "policy", emulator, {
        "strict": 'format = "json"\nrequire = ["id", "source", "type"]', "lenient": 'format = "json"'})
    ran(project, {"strict": (1, 3), "lenient": (4, 0)})
    rows = table(project, "lenient", ["body"])
    found = [(row["_event_id"], row["_event_source"], row["_event_type"]) for row in rows]
    same(found, [("1", "/a", "t"), (None, "/a", "t"), ("1", None, "t"), ("1", "/a", None)], "what isn't required is null")
    letters = read("deltalake", str(project / "lake" / "bronze" / "strict__dead_letters"), ["_sequence_number", "error_class"], [])
    same(sorted((letter["_sequence_number"], letter["error_class"]) for letter in letters), [(number, "attribute") for number in [1, 2, 3]], "dead letters")
    say("  policy: three of four rejected where they are required, null where not")


def run():
    hubs = ["amqp", "kafka", "structured", "batched", "texts", "binary", "enclosed", "written", "by_url", "strict", "lenient"]
    with folder() as place, Emulator({hub: 1 for hub in hubs}) as emulator:
        of_json(place, emulator)
        of_avro(place, emulator)
        policy(place, emulator)


if __name__ == "__main__":
    main(run)
