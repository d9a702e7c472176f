"""The public Avro files of tests/data/avro: each gives what fastavro gives, value by value, or is refused by name; and so
does what fastavro packs with each codec.

Each container is the body of an event, and has a hub and a table of its own. What is refused, and why, stands in
docs/types.md; this check holds the list to what happens. Where fastavro itself can't read a file, the Avro project's own
Python library does.

    interop.py
"""

import concurrent.futures
import datetime
import decimal
import io
import json
import math
import pathlib

import avro.datafile
import avro.io
import fastavro
from azure.eventhub import EventData

from events import GROUP, producer, registry_client, send
from machine import Emulator, check, folder, main, run, same, say, write_project
from readers import read

FILES = pathlib.Path(__file__).resolve().parents[1] / "data" / "avro"
DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "types.md"


def listed():
    """File to reason, as docs/types.md has them."""
    lines = DOCS.read_text().splitlines()
    table = lines[next(at for at, line in enumerate(lines) if line.startswith("| File |")) + 2:]
    found = {}
    for line in table:
        if not line.startswith("|"):
            return found
        _, name, reason, *_ = [cell.strip() for cell in line.split("|")]
        for one in name.split(", "):
            found[one.strip("`")] = reason
    return found


def read_by_others(path):
    """The records of a container; the root of a record that isn't one is its `value`."""
    body = path.read_bytes()
    try:
        rows = list(fastavro.reader(io.BytesIO(body)))
    except UnicodeDecodeError:
        with avro.datafile.DataFileReader(io.BytesIO(body), avro.io.DatumReader()) as reader:
            rows = list(reader)
    return [row if isinstance(row, dict) else {"value": row} for row in rows]


def plain(value):
    """As a table has it: times in UTC to the microsecond, floats as doubles."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=value.tzinfo or datetime.timezone.utc).astimezone(datetime.timezone.utc)
    if isinstance(value, decimal.Decimal):
        return value.normalize()
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    return value


def hub_of(path):
    return path.name.lower().replace(".", "_").replace("-", "_")


def containers(place):
    reasons = listed()
    paths = sorted([*FILES.glob("*.avro"), FILES / "test.avro12"])
    with Emulator({hub_of(path): 1 for path in paths}) as emulator:
        def publish(path):
            with producer(emulator, hub_of(path)) as client:
                send(client, {"partition_id": "0"}, [EventData(path.read_bytes())])

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(publish, paths))
        project = write_project(place / "containers", emulator, {hub_of(path): "" for path in paths})
        run(["--project", project, "run", "--until-caught-up"])
        given, refused = 0, {}
        for path in paths:
            table = project / "lake" / "bronze" / hub_of(path)
            letters = table.with_name(table.name + "__dead_letters")
            if list(letters.glob("_delta_log/*.json")):
                [letter] = read("deltalake", str(letters), ["error", "body", "framing"])
                same(letter["body"], path.read_bytes(), f"the bytes that are kept of {path.name}")
                refused[path.name] = letter["error"]
                continue
            expected = [plain(row) for row in read_by_others(path)]
            maps = [name for name, one in expected[0].items() if isinstance(one, dict)]
            found = read("deltalake", str(table), ["_record_index", *expected[0]], maps)
            found = [plain({name: one for name, one in row.items() if name != "_record_index"}) for row in sorted(found, key=lambda row: row["_record_index"])]
            same(found, expected, f"the records of {path.name}")
            given += 1
    for name, text in refused.items():
        check(name in reasons, f"{name} is refused, and docs/types.md doesn't say so: {text}")
        check(reasons[name] in text, f"{name} is refused otherwise than docs/types.md says: {text}")
    same(set(reasons) - set(refused) - {"interop.avsc"}, set(), "files that docs/types.md lists and that aren't refused")
    weather = [json.loads(line) for line in (FILES / "weather.json").read_text().splitlines()]
    same(read_by_others(FILES / "weather.avro"), weather, "weather.json")
    say(f"  {given} containers as fastavro reads them, {len(refused)} refused by name")


def every_codec(place):
    """What fastavro itself packs, in several blocks, gives the same rows whichever way it is packed."""
    with open(FILES / "weather.avro", "rb") as file:
        weather = fastavro.reader(file)
        schema, rows = weather.writer_schema, list(weather) * 2_000
    names = list(rows[0])
    codecs = ["null", "deflate", "snappy", "zstandard", "bzip2", "xz"]
    with Emulator({codec: 1 for codec in codecs}) as emulator:
        for codec in codecs:
            body = io.BytesIO()
            fastavro.writer(body, schema, rows, codec=codec)
            with producer(emulator, codec) as client:
                send(client, {"partition_id": "0"}, [EventData(body.getvalue())])
        project = write_project(place / "codecs", emulator, {codec: "" for codec in codecs})
        run(["--project", project, "run", "--until-caught-up"])
        for codec in codecs:
            found = read("deltalake", str(project / "lake" / "bronze" / codec), ["_record_index", *names])
            found.sort(key=lambda row: row.pop("_record_index"))
            same(found, rows, f"the records that fastavro packed with {codec}")
    say(f"  {len(rows)} records of fastavro, packed in each of {len(codecs)} ways")


def a_single_object(place):
    """Its schema lies in a folder, where it is known by the fingerprint that the message names."""
    with Emulator({"single": 1}) as emulator:
        with producer(emulator, "single") as client:
            send(client, {"partition_id": "0"}, [EventData((FILES / "messageV1-test_message.bin").read_bytes())])
        project = write_project(place / "single", emulator, {"single": ""}, schemas='[registry.folder]\npath = "schemas"\n')
        (project / "schemas").mkdir()
        text = (FILES / "messageV1-test_schema.avsc").read_text()
        (project / "schemas" / "message.avsc").write_text(text)
        run(["--project", project, "run", "--until-caught-up"])
        schema = fastavro.parse_schema(json.loads(text))
        body = io.BytesIO((FILES / "messageV1-test_message.bin").read_bytes()[10:])
        expected = fastavro.schemaless_reader(body, schema)
        [row] = read("deltalake", str(project / "lake" / "bronze" / "single"), list(expected))
        same(row, expected, "the single object")
    say("  the single object of the Avro project, by its fingerprint")


def every_type(place):
    """The schema of the Avro project's own interoperability test holds a record that holds itself."""
    with Emulator({"interop": 1}) as emulator:
        with registry_client(emulator) as client:
            text = (FILES / "interop.avsc").read_text()
            schema_id = client.register_schema(GROUP, "org.apache.avro.Interop", text, "Avro").id
        event = EventData(b"\x00")
        event.content_type = f"avro/binary+{schema_id}"
        with producer(emulator, "interop") as client:
            send(client, {"partition_id": "0"}, [event])
        project = write_project(place / "interop", emulator, {"interop": ""})
        run(["--project", project, "run", "--until-caught-up"])
        [letter] = read("deltalake", str(project / "lake" / "bronze" / "interop__dead_letters"), ["error"])
        check(listed()["interop.avsc"] in letter["error"], f"why interop.avsc is refused: {letter['error']}")


def check_all():
    with folder() as place:
        containers(place)
        every_codec(place)
        a_single_object(place)
        every_type(place)


if __name__ == "__main__":
    main(check_all)
