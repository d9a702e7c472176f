"""A producer with its own log: the judge's only witness of what was sent.

    producer.py READY.json HUB PARTITIONS LOG

It sends to named partitions alone, one batch after another, so that it knows each event's number
without asking anybody. A line of the log is written when the service has taken the batch: partition,
number, kind (`row`, or `bad` for bytes that no schema fits), and the SHA-256 of the values.
On stdin it takes `evolve` (the schema gains a field), `rate N` (events a second) and `stop`; it answers
each with a line on stdout.
"""

import io
import json
import pathlib
import queue
import random
import sys
import threading
import time
import types

import fastavro
from azure.eventhub import EventData

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "outside"))
from events import GROUP, producer, registry_client  # noqa: E402
from judge import hash_of_bytes, hash_of_values  # noqa: E402

NAME = "soak.Reading"
# One event of about so many can't be decoded.
BAD_ONE_IN = 61
RATE = 400
BATCHES_A_SECOND = 20


def schema(extra):
    """The schema with `extra` more fields than at first."""
    fields = [
        {"name": "id", "type": "string"},
        {"name": "value", "type": "long"},
        {"name": "ratio", "type": ["null", "double"], "default": None},
    ]
    fields += [{"name": f"extra_{number}", "type": ["null", "string"], "default": None} for number in range(extra)]
    return {"type": "record", "name": "Reading", "namespace": "soak", "fields": fields}


class Sender:
    def __init__(self, emulator, hub, partitions, log):
        self.registry = registry_client(emulator)
        self.client = producer(emulator, hub)
        self.partitions = [str(partition) for partition in range(partitions)]
        self.next_number = dict.fromkeys(self.partitions, 0)
        self.random = random.Random(7)
        self.log = log
        self.extra = -1
        self.evolve()

    def evolve(self):
        self.extra += 1
        text = json.dumps(schema(self.extra))
        self.content_type = f"avro/binary+{self.registry.register_schema(GROUP, NAME, text, 'Avro').id}"
        self.parsed = fastavro.parse_schema(json.loads(text))

    def event(self, partition, number):
        """The event, and its line of the log."""
        line = {"partition": partition, "number": number}
        if self.random.randrange(BAD_ONE_IN) == 0:
            body = b"\xff\xff\xff\xff\xff" + self.random.randbytes(self.random.randrange(20))
            line |= {"kind": "bad", "hash": hash_of_bytes(body)}
        else:
            values = {
                "id": f"{partition}-{number}",
                "value": self.random.randrange(-(2**63), 2**63),
                "ratio": self.random.choice([None, self.random.random()]),
            }
            values |= {f"extra_{field}": self.random.choice([None, f"{field}:{number}"]) for field in range(self.extra)}
            buffer = io.BytesIO()
            fastavro.schemaless_writer(buffer, self.parsed, values)
            body = buffer.getvalue()
            line |= {"kind": "row", "hash": hash_of_values(values)}
        event = EventData(body)
        event.content_type = self.content_type
        return event, line

    def send(self, partition, count):
        batch = self.client.create_batch(partition_id=partition)
        lines = []
        for number in range(self.next_number[partition], self.next_number[partition] + count):
            event, line = self.event(partition, number)
            batch.add(event)
            lines.append(json.dumps(line))
        self.client.send_batch(batch)
        self.next_number[partition] += count
        self.log.write("\n".join(lines) + "\n")
        self.log.flush()


def commands():
    lines = queue.Queue()

    def read():
        for line in sys.stdin:
            lines.put(line.split())
        lines.put(["stop"])

    threading.Thread(target=read, daemon=True).start()
    return lines


def main():
    ready, hub, partitions, log = sys.argv[1:]
    emulator = types.SimpleNamespace(**{"ca_file": None, **json.loads(pathlib.Path(ready).read_text())})
    asked = commands()
    rate = RATE
    with open(log, "a", encoding="utf-8") as file:
        sender = Sender(emulator, hub, int(partitions), file)
        print("sending", flush=True)
        turn = 0
        while True:
            while not asked.empty():
                match asked.get():
                    case ["evolve"]:
                        sender.evolve()
                        print(f"evolved {sender.extra}", flush=True)
                    case ["rate", number]:
                        rate = int(number)
                        print(f"rate {rate}", flush=True)
                    case ["stop"]:
                        sender.client.close()
                        print(json.dumps(sender.next_number), flush=True)
                        return
            if rate:
                sender.send(sender.partitions[turn % len(sender.partitions)], max(1, rate // BATCHES_A_SECOND))
                turn += 1
            time.sleep(1 / BATCHES_A_SECOND)


if __name__ == "__main__":
    main()
