"""Judges a table by the producer's own log and by what `deltalake` reads, and by nothing of the project.

    judge.py TABLE LOG

Each number that was sent is there once: as a row whose values have the hash that the producer noted,
or, where the producer sent bytes that nobody can decode, as a dead letter with exactly these bytes.
And nothing is there that wasn't sent. Ends with 0, or with 1 and what is wrong.
"""

import collections
import hashlib
import json
import pathlib
import sys

import deltalake

# The columns that a table has beside the payload's fields.
OURS = {
    "_source", "_record_index", "_partition", "_sequence_number", "_offset", "_enqueued_at", "_enqueued_date", "_event_id",
    "_event_source", "_event_type", "_event_time", "_schema_id", "_properties", "_rescued", "_origin",
}
SHOWN = 20


def hash_of_values(values):
    """Fields that are null count as fields that aren't there: the writer's schema may not have had them."""
    there = {name: value for name, value in values.items() if value is not None}
    return hashlib.sha256(json.dumps(there, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def hash_of_bytes(body):
    return hashlib.sha256(body).hexdigest()


def sent_of(log):
    sent = {}
    for text in pathlib.Path(log).read_text().splitlines():
        line = json.loads(text)
        key = (line["partition"], line["number"])
        if key in sent:
            raise SystemExit(f"the producer's log has {key} twice")
        sent[key] = (line["kind"], line["hash"])
    return sent


def rows_of(table):
    arrow = deltalake.DeltaTable(table).to_pyarrow_table()
    for row in arrow.to_pylist():
        values = {name: value for name, value in row.items() if name not in OURS}
        yield (row["_partition"], row["_sequence_number"]), ("row", hash_of_values(values))


def dead_letters_of(table):
    path = table.rstrip("/") + "__dead_letters"
    if not deltalake.DeltaTable.is_deltatable(path):
        return
    for row in deltalake.DeltaTable(path).to_pyarrow_table().to_pylist():
        yield (row["_partition"], row["_sequence_number"]), ("bad", hash_of_bytes(row["body"] or b""))


def found_in(table):
    """Key to everything that the table and its dead letters say of it."""
    found = collections.defaultdict(list)
    for key, what in [*rows_of(table), *dead_letters_of(table)]:
        found[key].append(what)
    return found


def compare(sent, found):
    """Everything that is wrong, as words."""
    wrong = []
    for key, what in sent.items():
        if key not in found:
            wrong.append(f"missing: {what[0]} {key}")
        elif len(found[key]) > 1:
            wrong.append(f"{len(found[key])} times: {what[0]} {key}")
        elif found[key][0] != what:
            wrong.append(f"another value: {key} was sent as {what}, found as {found[key][0]}")
    return wrong + [f"never sent: {key}" for key in found if key not in sent]


def can_fail(sent, found):
    """A judge that finds nothing must be one that would: each kind of harm, to one number, is named."""
    key = sorted(sent)[len(sent) // 2]
    harmed = [
        ("missing", sent, {other: what for other, what in found.items() if other != key}),
        ("2 times", sent, found | {key: found[key] * 2}),
        ("another value", sent | {key: (sent[key][0], "another hash")}, found),
        ("never sent", {other: what for other, what in sent.items() if other != key}, found),
    ]
    return all(len(wrong := compare(*harm)) == 1 and wrong[0].startswith(words) for words, *harm in harmed)


def judge(table, log):
    """Everything that is wrong, and how many numbers of each kind were sent."""
    sent, found = sent_of(log), found_in(table)
    wrong = compare(sent, found)
    if not wrong and not can_fail(sent, found):
        wrong = ["the judge would not have seen harm"]
    return wrong, collections.Counter(kind for kind, _ in sent.values())


def main():
    table, log = sys.argv[1:]
    wrong, kinds = judge(table, log)
    for line in wrong[:SHOWN]:
        print(line)
    if wrong:
        sys.exit(f"judge: {len(wrong)} numbers are wrong of {kinds.total()}")
    print(f"judge: {kinds.total()} numbers, each once: {kinds['row']} rows, {kinds['bad']} dead letters")


if __name__ == "__main__":
    main()
