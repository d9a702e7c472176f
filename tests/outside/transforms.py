"""Eight transforms that hang on one another, killed anywhere: each table is what its query gives over all.

Inputs are written by `deltalake`, late, repeated, out of order, some bad, and compacted meanwhile. `sluice
transform` dies at a named point, or by SIGKILL at any moment, or runs twice at once. At the end each table is
held against the answer that DuckDB computes over all events at once, and no row of a quarantine is there twice.
Before that the same by `sluice run`, two of them by cron, with a time that was missed; and on Azurite, with two kills.
"""

import argparse
import datetime
import decimal
import json
import random
import signal
import time

import deltalake
import duckdb
import pyarrow

from machine import Azurite, Failed, Process, check, folder, main, run as sluice, same, say, sluice as binary

POINTS = ["output-made", "part-written", "side-tables-committed", "part-committed"]
YEARLY = "0 0 1 1 *"
STATUSES = ["open", "open", "won", "lost", "deleted"]

# Table: its declaration, its SQL, and what DuckDB computes over `leads` and `sales`, all events there are.
LAST = """SELECT * EXCLUDE (place) FROM (SELECT *, row_number() OVER (PARTITION BY id ORDER BY seq DESC, status = 'deleted' DESC,
    status DESC NULLS LAST, score DESC NULLS LAST, product DESC NULLS LAST, seen DESC NULLS LAST) AS place FROM good)
    WHERE place = 1 AND status <> 'deleted'"""
TRANSFORMS = {
    "silver.events": (
        'mode = "append"\npartition_by = ["product"]',
        "SELECT id, seq, status, score, product, seen, date_trunc('hour', seen) AS hour FROM STREAM(bronze.leads)",
        "SELECT id, seq, status, score, product, seen, date_trunc('hour', seen) AS hour FROM leads",
    ),
    "silver.leads": (
        'mode = "merge"\nkeys = ["id"]\nsequence_by = ["seq"]\ndelete_when = "status = \'deleted\'"\n'
        '[[transform.expect]]\nname = "score"\ncheck = "score >= 0"\non_violation = "quarantine"',
        "SELECT id, seq, status, score, product, seen FROM STREAM(bronze.leads)",
        LAST,
    ),
    "silver.leads_history": (
        'mode = "history"\nkeys = ["id"]\nsequence_by = ["seq"]',
        "SELECT id, seq, status, score FROM STREAM(bronze.leads)",
        """SELECT *, seq AS valid_from, lead(seq) OVER of_one AS valid_to, lead(1) OVER of_one IS NULL AS is_current
           FROM (SELECT DISTINCT id, seq, status, score FROM leads)
           WINDOW of_one AS (PARTITION BY id ORDER BY seq, status, score NULLS FIRST)""",
    ),
    "silver.sales": (
        'mode = "append"\ndedupe_by = ["sale"]',
        "SELECT sale, id, amount FROM STREAM(bronze.sales)",
        "SELECT DISTINCT sale, id, amount FROM sales",
    ),
    "gold.funnel": (
        'mode = "recompute"\nkeys = ["product", "hour"]',
        """SELECT product, hour, count(*) AS events, count(DISTINCT id) AS leads, max(score) AS best
           FROM STREAM(silver.events) GROUP BY product, hour HAVING count(*) > 2""",
        """SELECT product, date_trunc('hour', seen) AS hour, count(*) AS events, count(DISTINCT id) AS leads, max(score) AS best
           FROM leads GROUP BY ALL HAVING count(*) > 2""",
    ),
    "gold.unsold": (
        'mode = "recompute"\nkeys = ["id"]',
        """SELECT e.id, max(e.seq) AS seq FROM STREAM(silver.events) e LEFT JOIN STREAM(silver.sales) s ON e.id = s.id
           WHERE s.id IS NULL GROUP BY e.id""",
        "SELECT id, max(seq) AS seq FROM leads WHERE id NOT IN (SELECT id FROM sales) GROUP BY id",
    ),
    "gold.statuses": (
        'mode = "replace"',
        "SELECT status, count(*) AS leads FROM silver.leads GROUP BY status",
        f"SELECT status, count(*) AS leads FROM ({LAST}) GROUP BY status",
    ),
    "gold.revenue": (
        'mode = "replace"',
        """SELECT l.product, sum(s.amount) AS amount, count(*) AS sales FROM silver.sales s JOIN silver.leads l USING (id)
           GROUP BY l.product""",
        f"""SELECT l.product, sum(s.amount) AS amount, count(*) AS sales FROM (SELECT DISTINCT sale, id, amount FROM sales) s
            JOIN ({LAST}) l USING (id) GROUP BY l.product""",
    ),
}


class Inputs:
    """The two tables that everything is made of, and all that was ever put into them."""

    def __init__(self, lake, chance, options=None):
        self.lake = lake
        self.chance = chance
        self.options = options
        self.leads = []
        self.sales = []
        self.sold = 0

    def lead(self):
        chance = self.chance
        if self.leads and chance.random() < 0.1:
            return dict(chance.choice(self.leads))
        score = None if chance.random() < 0.1 else chance.randint(-1, 9)
        seen = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(minutes=chance.randint(0, 600))
        return {
            "id": f"lead-{chance.randint(0, 60):03}", "seq": chance.randint(0, 400), "status": chance.choice(STATUSES),
            "score": score, "product": chance.choice(["home", "car", "life & more", "50%"]), "seen": seen,
        }

    def sale(self):
        if self.sales and self.chance.random() < 0.2:
            return dict(self.chance.choice(self.sales))
        self.sold += 1
        return {"sale": f"sale-{self.sold}", "id": f"lead-{self.chance.randint(0, 60):03}", "amount": self.chance.randint(1, 99)}

    def grow(self):
        self.write("leads", self.leads, [self.lead() for _ in range(self.chance.randint(1, 25))], LEADS)
        if self.chance.random() < 0.6 or not self.sales:
            self.write("sales", self.sales, [self.sale() for _ in range(self.chance.randint(1, 5))], SALES)
        if self.chance.random() < 0.2:
            deltalake.DeltaTable(f"{self.lake}/bronze/leads", storage_options=self.options).optimize.compact()

    def write(self, table, held, rows, schema):
        held.extend(rows)
        rows = pyarrow.Table.from_pylist(rows, schema)
        deltalake.write_deltalake(f"{self.lake}/bronze/{table}", rows, mode="append", storage_options=self.options)


LEADS = pyarrow.schema({
    "id": pyarrow.string(), "seq": pyarrow.int64(), "status": pyarrow.string(), "score": pyarrow.int64(),
    "product": pyarrow.string(), "seen": pyarrow.timestamp("us", tz="UTC"),
})
SALES = pyarrow.schema({"sale": pyarrow.string(), "id": pyarrow.string(), "amount": pyarrow.int64()})


def project(path, every="1m", by_cron=(), lake="lake", storage=""):
    (path / "pipelines").mkdir(parents=True)
    (path / "sql").mkdir()
    (path / "sluice.toml").write_text(
        f'[project]\nname = "outside"\nteams = ["outside"]\n\n[lake]\nurl = "{lake}"\n\n{storage}\n[serve]\naddress = "127.0.0.1:0"\n')
    declared = []
    for table, (keys, sql, _) in TRANSFORMS.items():
        (path / "sql" / f"{table}.sql").write_text(sql)
        when = f'cron = "{YEARLY}"' if table in by_cron else f'every = "{every}"'
        declared.append(f'[[transform]]\ntable = "{table}"\nowner = "outside"\nsql = "sql/{table}.sql"\n{when}\n{keys}\n')
    (path / "pipelines" / "transforms.toml").write_text("\n".join(declared))
    return path


def arguments(made, *more):
    return ["--project", made, "transform", "--part-size", "6KB", "--format", "json", *more]


def killed(made, inputs, chance):
    """One run that is disturbed: gives what was done to it."""
    how = chance.random()
    if how < 0.6:
        point = f"{chance.choice(POINTS)}:{chance.randint(1, 10)}"
        process = Process([binary(), *arguments(made, "--crash-at", point)])
        inputs.grow()
        code = process.ended(120)
        check(code in (0, -signal.SIGABRT), f"`sluice transform` ended with {code}\n{process.said()}")
        return point if code else f"{point}, which it didn't come to"
    if how < 0.9:
        process = Process([binary(), *arguments(made)])
        inputs.grow()
        time.sleep(chance.uniform(0.05, 2.5))
        process.end()
        return "SIGKILL"
    both = [Process([binary(), *arguments(made)]) for _ in range(2)]
    for process in both:
        same(process.ended(120), 0, f"the exit code of one of two at once\n{process.said()}")
    return "two at once"


def plain(rows):
    def value(held):
        if isinstance(held, decimal.Decimal):
            return int(held)
        return held.astimezone(datetime.timezone.utc).isoformat() if isinstance(held, datetime.datetime) else held

    return sorted(json.dumps({name: value(held) for name, held in row.items()}, sort_keys=True) for row in rows)


def of_table(inputs, table):
    place = f"{inputs.lake}/{table.replace('.', '/')}"
    return deltalake.DeltaTable(place, storage_options=inputs.options).to_pyarrow_table().to_pylist()


def holds(inputs, without=()):
    """Each table against DuckDB's answer over all."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("leads", pyarrow.Table.from_pylist(inputs.leads, LEADS))
    connection.register("sales", pyarrow.Table.from_pylist(inputs.sales, SALES))
    connection.execute("CREATE VIEW good AS SELECT * FROM leads WHERE score >= 0 OR score IS NULL")
    for table in [table for table in TRANSFORMS if table not in without]:
        _, _, whole = TRANSFORMS[table]
        expected = plain(connection.execute(whole).fetch_arrow_table().to_pylist())
        found = plain(of_table(inputs, table))
        missing = [row for row in expected if row not in found][:5]
        more = [row for row in found if row not in expected][:5]
        check(expected == found, f"`{table}` has {len(found)} rows, not {len(expected)}; missing {missing}, more {more}")
    bad = plain([row for row in inputs.leads if row["score"] is not None and row["score"] < 0])
    own = ("_expectation", "_reason", "_run_id", "_quarantined_at")
    held = [{name: value for name, value in row.items() if name not in own} for row in of_table(inputs, "silver.leads__quarantine")]
    same(plain(held), bad, "the rows of the quarantine")
    runs = of_table(inputs, "sluice.runs")
    check(all(row["outcome"] == "committed" for row in runs), f"a run failed: {[row for row in runs if row['error']]}")


def until_it_holds(process, inputs, without=()):
    deadline = time.monotonic() + 60
    while True:
        try:
            return holds(inputs, without)
        except (Failed, deltalake.exceptions.TableNotFoundError) as failed:
            check(time.monotonic() < deadline, f"not up to date after 60 s: {failed}\n{process.said()}")
            time.sleep(0.5)


def outcome(record):
    last = json.loads(record.read_text())["last_run"]
    return last and last["outcome"]


def live(chance):
    """`sluice run` keeps all tables up with inputs that grow, two of them by cron, and ends cleanly."""
    by_cron = ("gold.statuses", "gold.revenue")
    with folder() as place:
        made = project(place / "project", every="200ms", by_cron=by_cron)
        inputs = Inputs(made / "lake", chance)
        process = Process([binary(), "--project", made, "run"])
        try:
            for _ in range(8):
                inputs.grow()
                time.sleep(chance.uniform(0.1, 1.0))
            until_it_holds(process, inputs, without=by_cron)
            inputs.grow()
            same(process.stop(), 0, "the exit code after SIGTERM")
        finally:
            process.end()
        records = {table: made / "lake" / "_sluice" / "schedules" / f"{table}.json" for table in by_cron}
        for table, record in records.items():
            check(not (made / "lake" / table.replace(".", "/")).exists(), f"`{table}` was made before its time")
            held = json.loads(record.read_text())
            same(held["last_run"], None, "what ran at the times of a schedule that has just begun")
            record.write_text(json.dumps({**held, "dealt_until": "2020-01-01T00:00:00Z"}))
        process = Process([binary(), "--project", made, "run"])
        try:
            # The one reads what the other transforms make: it is run at the first look, whatever they hold then.
            until_it_holds(process, inputs, without=by_cron)
            deadline = time.monotonic() + 60
            while {outcome(record) for record in records.values()} != {"complete"}:
                check(time.monotonic() < deadline, f"a time that was missed isn't made up for\n{process.said()}")
                time.sleep(0.1)
            same(process.stop(), 0, "the exit code after SIGTERM")
        finally:
            process.end()
        for table in by_cron:
            same(len(deltalake.DeltaTable(made / "lake" / table.replace(".", "/")).history()), 2, f"commits of `{table}`: it is made, and made once")
        sluice(arguments(made))
        holds(inputs)
    say("sluice run kept up with its inputs, and with a time that was missed")


def on_azure(chance):
    """The same tables on Azurite, where two runs die."""
    with folder() as place, Azurite() as azurite:
        azurite.container("lake")
        options = azurite.storage_options()
        storage = f'''[storage.azure]
account_name = "{options["account_name"]}"
account_key  = "{options["account_key"]}"
endpoint     = "{azurite.endpoint}"
'''
        made = project(place / "project", lake="az://lake/x", storage=storage)
        inputs = Inputs("az://lake/x", chance, options)
        inputs.grow()
        sluice(arguments(made))
        for point in ("part-written:2", "side-tables-committed"):
            inputs.grow()
            sluice(arguments(made, "--crash-at", point), expect=-signal.SIGABRT)
        inputs.grow()
        sluice(arguments(made))
        holds(inputs)
    say("the same on Azurite")


def everything(kills, seed):
    chance = random.Random(seed)
    say(f"seed {seed}")
    live(chance)
    on_azure(chance)
    with folder() as place:
        made = project(place / "project")
        inputs = Inputs(made / "lake", chance)
        inputs.grow()
        for number in range(kills):
            what = killed(made, inputs, chance)
            inputs.grow()
            say(f"{number + 1} of {kills}: {what}")
        report = json.loads(sluice(arguments(made)))
        same({row["outcome"] for row in report["transforms"]} <= {"committed", "unchanged"}, True, "the outcomes of the last run")
        holds(inputs)
        report = json.loads(sluice(arguments(made)))
        same({row["outcome"] for row in report["transforms"]}, {"unchanged"}, "the outcomes of a run over nothing new")
        say(f"{len(inputs.leads)} leads and {len(inputs.sales)} sales in {len(TRANSFORMS)} tables")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    given = parser.parse_args()
    main(lambda: everything(given.kills, given.seed))
