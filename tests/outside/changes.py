"""The change feed of a merged table and of a history, held against what another reader makes of it.

`sluice transform` merges events that come in random batches, late and repeated, into tables that another transform
streams. `deltalake` reads the same changes by `load_cdf`, compacts the table, and updates and deletes rows in it as a
writer of its own. At the end the rows that STREAM gave are those that `load_cdf` gives, copies made of changes are the
tables, and all three readers read a table with a change feed.
"""

import argparse
import collections
import json
import random

import deltalake
import pyarrow

from machine import check, folder, main, run as sluice, same, say
from readers import READERS, read

LEADS = pyarrow.schema({"id": pyarrow.string(), "seq": pyarrow.int64(), "status": pyarrow.string(), "amount": pyarrow.int64()})
OWN = ["id", "seq", "status", "amount"]
CHANGE = "delete_when = \"_change_type = 'delete'\"\nsequence_by = [\"_commit_version\", \"_change_type\"]"

TRANSFORMS = {
    "silver.leads": (
        'mode = "merge"\nkeys = ["id"]\nsequence_by = ["seq"]\ndelete_when = "status = \'deleted\'"\npartition_by = ["status"]',
        "SELECT id, seq, status, amount FROM STREAM(bronze.leads)",
    ),
    "silver.history": (
        'mode = "history"\nkeys = ["id"]\nsequence_by = ["seq"]',
        "SELECT id, seq, status, amount FROM STREAM(bronze.leads)",
    ),
    "gold.statuses": (
        'mode = "recompute"\nkeys = ["status"]\nchange_feed = true',
        "SELECT status, count(*) AS leads, sum(amount) AS amount FROM STREAM(silver.leads) GROUP BY status",
    ),
    "log.leads": ('mode = "append"', "SELECT * FROM STREAM(silver.leads)"),
    "log.history": ('mode = "append"', "SELECT * FROM STREAM(silver.history)"),
    "log.statuses": ('mode = "append"', "SELECT * FROM STREAM(gold.statuses)"),
    "gold.copy": (f'mode = "merge"\nkeys = ["id"]\n{CHANGE}', "SELECT * FROM STREAM(silver.leads) WHERE _change_type <> 'update_preimage'"),
}


def project(path):
    (path / "pipelines").mkdir(parents=True)
    (path / "sql").mkdir()
    (path / "sluice.toml").write_text('[project]\nname = "outside"\nteams = ["outside"]\n\n[lake]\nurl = "lake"\n')
    declared = []
    for table, (keys, sql) in TRANSFORMS.items():
        (path / "sql" / f"{table}.sql").write_text(sql)
        declared.append(f'[[transform]]\ntable = "{table}"\nowner = "outside"\nsql = "sql/{table}.sql"\n{keys}\n')
    (path / "pipelines" / "transforms.toml").write_text("\n".join(declared))
    return path


def opened(made, table):
    return deltalake.DeltaTable(made / "lake" / table.replace(".", "/"))


def transformed(made):
    report = json.loads(sluice(["--project", made, "transform", "--format", "json"]))
    same({row["outcome"] for row in report["transforms"]} <= {"committed", "unchanged"}, True, f"the outcomes: {report}")


def event(chance):
    return {
        "id": f"lead-{chance.randint(0, 30):03}", "seq": chance.randint(0, 300),
        "status": chance.choice(["open", "won", "lost", "late", "deleted"]), "amount": chance.choice([None, 1, 2, 3]),
    }


def counted(rows, without=("_commit_timestamp",)):
    plain = (json.dumps({name: value for name, value in row.items() if name not in without}, sort_keys=True, default=str) for row in rows)
    return collections.Counter(plain)


def told_alike(made, table, log):
    """What STREAM gave, against `load_cdf`: from the version after the one that it began with."""
    streamed = opened(made, log).to_pyarrow_table().to_pylist()
    first = min(row["_commit_version"] for row in streamed)
    streamed = [row for row in streamed if row["_commit_version"] > first]
    # A feed is what it is from the version on at which it was turned on.
    changes = pyarrow.table(opened(made, table).load_cdf(starting_version=first + 1)).to_pylist()
    ours, theirs = counted(streamed), counted(changes)
    check(ours == theirs, f"`{table}`: only STREAM gives {list((ours - theirs).items())[:5]}, only load_cdf {list((theirs - ours).items())[:5]}")
    times = {row["_commit_version"]: row["_commit_timestamp"] for row in streamed}
    for row in changes:
        held = times[row["_commit_version"]].replace(tzinfo=None)
        given = row["_commit_timestamp"].replace(tzinfo=None)
        same(held, given, f"the time of version {row['_commit_version']} of `{table}`")
    return collections.Counter(row["_change_type"] for row in streamed)


def by_another_writer(made, chance):
    """Changes that `deltalake` makes of a table with a feed: it writes files of its own, which are read as ours are."""
    leads = opened(made, "silver.leads")
    if chance.random() < 0.5:
        leads.delete(f"id = 'lead-{chance.randint(0, 30):03}'")
    else:
        leads.update(updates={"amount": "7"}, predicate=f"id = 'lead-{chance.randint(0, 30):03}'")


def everything(rounds, seed):
    chance = random.Random(seed)
    say(f"seed {seed}")
    with folder() as place:
        made = project(place / "project")
        for number in range(rounds):
            rows = [event(chance) for _ in range(chance.randint(1, 25))]
            deltalake.write_deltalake(made / "lake" / "bronze" / "leads", pyarrow.Table.from_pylist(rows, LEADS), mode="append")
            if number == 0:
                sluice(["--project", made, "check"])
            # Sometimes the streams fall behind, and read several versions at once.
            if number % 3 == 1:
                sluice(["--project", made, "transform", "silver.leads", "silver.history"])
            else:
                transformed(made)
            if number % 4 == 2:
                opened(made, "silver.leads").optimize.compact()
            if number % 5 == 3:
                by_another_writer(made, chance)
        transformed(made)
        kinds = collections.Counter()
        for table, log in [("silver.leads", "log.leads"), ("silver.history", "log.history"), ("gold.statuses", "log.statuses")]:
            kinds += told_alike(made, table, log)
        check(all(kinds[kind] for kind in ("insert", "update_preimage", "update_postimage", "delete")), f"changes of each kind: {kinds}")
        for reader in READERS:
            leads = counted(read(reader, str(made / "lake/silver/leads"), OWN))
            same(leads, counted(read(reader, str(made / "lake/gold/copy"), OWN)), f"a copy made of changes, as {reader} reads both")
        statuses = collections.Counter(row["status"] for row in read("duckdb", str(made / "lake/silver/leads"), OWN))
        held = {row["status"]: row["leads"] for row in read("duckdb", str(made / "lake/gold/statuses"), ["status", "leads"])}
        same(held, dict(statuses), "what is computed again by changes")
        protocol = opened(made, "silver.leads").protocol()
        same((protocol.min_reader_version, protocol.min_writer_version), (1, 4), "the protocol")
        say(f"{sum(kinds.values())} changes: {dict(kinds)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    given = parser.parse_args()
    main(lambda: everything(given.rounds, given.seed))
