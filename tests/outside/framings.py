"""Framings and registries against encoders that nobody here wrote.

Confluent: the official client's serializer, which registers at a server of the wire format that this file is (no
real registry can be had here), schemas with references too. A folder: single-object encoding and containers by
fastavro, their fingerprints too. The old preamble of Azure: nobody writes it any more, so its 36 bytes are laid out by
hand, before a datum of fastavro.

    framings.py
"""

import base64
import http.server
import io
import json
import threading
import urllib.parse

import fastavro
from azure.eventhub import EventData
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from fastavro.schema import fingerprint, to_parsing_canonical_form

from events import COLUMNS, GROUP, MAPS, SCHEMA, producer, registry_client, send, values
from fifty_thousand import equal
from machine import Emulator, audit, check, folder, main, same, say, until_caught_up, write_project
from readers import read

USER, PASSWORD = "key", "se:cret/+"
COUNT = 200
ADDRESS = {"type": "record", "name": "Address", "namespace": "parts", "fields": [{"name": "city", "type": "string"}]}
ORDER = {"type": "record", "name": "Order", "namespace": "shop", "fields": [
    {"name": "id", "type": "long"}, {"name": "to", "type": "parts.Address"}, {"name": "from", "type": ["null", "parts.Address"]}]}


class Registry(http.server.BaseHTTPRequestHandler):
    """What the official client and `sluice` ask of a registry: schemas by id and by version, registration."""

    by_id, versions = {}, {}
    protocol_version = "HTTP/1.1"

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/vnd.schemaregistry.v1+json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def handle_one(self, body):
        if self.headers.get("authorization") != "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode():
            return self.answer(401, {"error_code": 401, "message": "Unauthorized"})
        parts = [urllib.parse.unquote(part) for part in self.path.split("?")[0].strip("/").split("/")]
        match [self.command, *parts]:
            case ["GET", "schemas", "ids", number]:
                held = Registry.by_id.get(int(number))
                return self.answer(200, held) if held else self.answer(404, {"error_code": 40403, "message": "Schema not found"})
            case ["POST", "subjects", subject, "versions"] | ["POST", "subjects", subject]:
                held = {key: body[key] for key in ("schema", "schemaType", "references") if body.get(key)}
                held = {key: value for key, value in held.items() if (key, value) != ("schemaType", "AVRO")}
                number = next((number for number, other in Registry.by_id.items() if other == held), None)
                if number is None:
                    # Beyond three bytes, so that each byte of the id counts.
                    number = 16_909_060 + len(Registry.by_id)
                    Registry.by_id[number] = held
                versions = Registry.versions.setdefault(subject, [])
                if number not in versions:
                    versions.append(number)
                return self.answer(200, {"id": number, "subject": subject, "version": versions.index(number) + 1, **held})
            case ["GET", "subjects", subject, "versions", version]:
                number = Registry.versions.get(subject, [])[int(version) - 1]
                return self.answer(200, {"subject": subject, "version": int(version), "id": number, **Registry.by_id[number]})
        return self.answer(404, {"error_code": 404, "message": "HTTP 404 Not Found"})

    def do_GET(self):
        self.handle_one(None)

    def do_POST(self):
        self.handle_one(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def log_message(self, *_):
        pass


def datum(schema, value):
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()


def container(codec, sent, interval):
    out = io.BytesIO()
    fastavro.writer(out, fastavro.parse_schema(SCHEMA), sent, codec=codec, sync_interval=interval)
    return out.getvalue()


def publish(emulator, hub, bodies):
    with producer(emulator, hub) as client:
        send(client, {"partition_id": "0"}, [EventData(body) for body in bodies])


def compare(project, hub, sent, framing):
    rows = read("deltalake", str(project / "lake" / "bronze" / hub), COLUMNS + ["_sequence_number", "_record_index", "_schema_id"], MAPS)
    by_id = {row["lead_id"]: row for row in rows}
    same((len(rows), len(by_id)), (len(sent), len(sent)), f"rows and ids of {framing}")
    for event in sent:
        row = by_id[event["lead_id"]]
        for column in COLUMNS:
            check(equal(row[column], event[column]), f"{framing}: `{column}` is {row[column]!r}, sent was {event[column]!r}")
    return by_id


def ran(project, hub, committed, rejected=0):
    report = until_caught_up(project)[hub]
    same((report["committed"], report["rejected"]), (committed, rejected), f"events of {hub}, committed and rejected")
    proof = audit(project, f"bronze.{hub}")
    same((proof["complete"], proof["duplicates"], proof["missing"]), (True, 0, 0), f"the audit of {hub}: {proof['problems']}")
    return proof


def confluent(place, emulator):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    client = SchemaRegistryClient({"url": url, "basic.auth.user.info": f"{USER}:{PASSWORD}"})
    sent = values(COUNT, seed=11)
    write = AvroSerializer(client, json.dumps(SCHEMA))
    where = SerializationContext("leads", MessageField.VALUE)
    bodies = [write(event, where) for event in sent]
    same(bodies[0][:5], bytes([0, 1, 2, 3, 4]), "what the serializer puts before the datum")
    publish(emulator, "leads", bodies + [bytes([0, 0, 0, 0, 9]) + bodies[0][5:]])

    client.register_schema("parts/address", Schema(json.dumps(ADDRESS), "AVRO"))
    references = [SchemaReference("parts.Address", "parts/address", 1)]
    order = AvroSerializer(client, Schema(json.dumps(ORDER), "AVRO", references))
    orders = [{"id": n, "to": {"city": f"Köln {n}"}, "from": None if n % 2 else {"city": "Oslo"}} for n in range(20)]
    publish(emulator, "orders", [order(one, SerializationContext("orders", MessageField.VALUE)) for one in orders])

    schemas = f'[registry.confluent]\nurl      = "{url}"\nusername = "{USER}"\npassword = "{PASSWORD}"\n'
    project = write_project(place / "confluent", emulator, {"leads": "", "orders": ""}, schemas=schemas)
    same(until_caught_up(project)["orders"]["committed"], len(orders), "orders of a schema with a reference")
    proof = ran(project, "leads", 0)
    same((proof["rows"], proof["rejected"]), (COUNT, 1), "rows, and the event of an unknown number")
    by_id = compare(project, "leads", sent, "Confluent's serializer")
    same({row["_schema_id"] for row in by_id.values()}, {"16909060"}, "the ids that the events name")
    rows = read("deltalake", str(project / "lake" / "bronze" / "orders"), ["id", "to", "from"], [])
    same(sorted(rows, key=lambda row: row["id"]), orders, "orders")
    server.shutdown()
    server.server_close()
    say(f"  confluent: {COUNT} events of the official serializer, {len(orders)} with a reference")


def of_folder(place, emulator):
    singles, contained = values(COUNT, seed=12), values(COUNT, seed=13)
    for event in contained:
        event["lead_id"] = "contained-" + event["lead_id"]
    mark = bytes.fromhex(fingerprint(to_parsing_canonical_form(fastavro.parse_schema(SCHEMA)), "CRC-64-AVRO"))
    bodies = [b"\xc3\x01" + mark + datum(SCHEMA, event) for event in singles]
    half = COUNT // 2
    whole = [container("null", contained[:half], 200), container("deflate", contained[half:], 16_000)]
    torn = whole[0][:-20]
    publish(emulator, "folder", bodies + whole + [torn])

    # Its named types lie in files of their own.
    project = write_project(place / "folder", emulator, {"folder": ""}, schemas='[registry.folder]\npath = "schemas"\n')
    schemas = project / "schemas"
    schemas.mkdir()
    root = json.loads(json.dumps(SCHEMA))
    for field in root["fields"]:
        if field["name"] == "contact":
            (schemas / "contact.avsc").write_text(json.dumps({**field["type"], "namespace": "outside"}))
            field["type"] = "Contact"
    (schemas / "lead.avsc").write_text(json.dumps(root))
    proof = ran(project, "folder", COUNT + 2, rejected=1)
    same(proof["rows"], 2 * COUNT, "rows in the audit")
    by_id = compare(project, "folder", singles + contained, "single objects and containers")
    same({by_id[event["lead_id"]]["_schema_id"] for event in singles}, {mark.hex()}, "the fingerprint as fastavro has it")
    for number, part in [(COUNT, contained[:half]), (COUNT + 1, contained[half:])]:
        found = [(by_id[event["lead_id"]]["_sequence_number"], by_id[event["lead_id"]]["_record_index"]) for event in part]
        same(found, [(number, index) for index in range(half)], "positions of the records of a container")
    letters = read("deltalake", str(project / "lake" / "bronze" / "folder__dead_letters"), ["_sequence_number", "_record_index", "framing", "body"], [])
    same(letters, [{"_sequence_number": COUNT + 2, "_record_index": 0, "framing": "container", "body": torn}], "the torn container")
    same(until_caught_up(project)["folder"]["received"], 0, "what another run takes in")
    say(f"  folder: {COUNT} single objects, {COUNT} records in two containers, a torn one rejected whole")


def preamble(place, emulator):
    sent = values(COUNT, seed=14)
    with registry_client(emulator) as client:
        schema_id = client.register_schema(GROUP, "outside.Lead", json.dumps(SCHEMA), "Avro").id
    bodies = [bytes(4) + schema_id.encode() + datum(SCHEMA, event) for event in sent]
    publish(emulator, "preamble", bodies)
    project = write_project(place / "preamble", emulator, {"preamble": ""})
    ran(project, "preamble", COUNT)
    by_id = compare(project, "preamble", sent, "the old preamble")
    same({row["_schema_id"] for row in by_id.values()}, {schema_id}, "the ids that the events name")
    say(f"  preamble: {COUNT} events")


def run():
    hubs = {"leads": 1, "orders": 1, "folder": 1, "preamble": 1}
    with folder() as place, Emulator(hubs) as emulator:
        preamble(place, emulator)
        of_folder(place, emulator)
        confluent(place, emulator)


if __name__ == "__main__":
    main(run)
