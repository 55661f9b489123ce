"""The yardsticks: pgbench executing the project's own statements on one connection, without any Python.

Each claims from its watermark and settles what it claimed, as a runner does; it runs nothing in between and overlaps nothing, and
payloads stay on the server.
`lock_first` locks a batch, copies it into history under a savepoint, deletes it and commits; `leased` writes every claim down.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from benchmarks import server
from benchmarks.ground import Ground
from pgqueue.embedded import binary
from pgqueue.statements import statements
from pgqueue.watermark import FIRST, LAST, NIL

BATCH = 500
# The statements of one round, in this order. A name in braces is a file of pgqueue/sql; the first of them claims, and the rest
# get what it claimed.
LOCK_FIRST = ("BEGIN", "{lock}", "SAVEPOINT settle", "{record}", "RELEASE SAVEPOINT settle", "{remove}", "COMMIT")
LEASED = ("{claim}", "{settle}")

# Takes the claimed rows apart into what the settles need, as the one row that pgbench can keep in its variables.
GATHERED = """
SELECT
    '{{' || string_agg(id, ',' ORDER BY id) || '}}' AS ids,
    '{{' || string_agg('"' || id || '":"' || :claim_id || '"', ',') || '}}' AS claims,
    '{{{first},' || -priority || '}}' AS first_priorities,
    '{{' || (-priority - 1) || ',{last}}}' AS last_priorities,
    '{{-infinity,"' || max(maturity_at) || '"}}' AS maturities,
    '{{{nil},' || (max(ARRAY[id])::text[])[1] || '}}' AS watermark_ids
FROM claimed GROUP BY priority
\\gset
"""


def lock_first(ground: Ground) -> dict[str, float]:
    """Where the runner knows leases only, its yardstick does too."""
    missing = [name for name in _files(LOCK_FIRST) if not resources.files("pgqueue").joinpath("sql", f"{name}.sql").is_file()]
    if missing:
        print(f"  pgqueue/sql has no {missing[0]}.sql: the yardstick is the leased one", file=sys.stderr, flush=True)
    return _measure(ground, LEASED if missing else LOCK_FIRST)


def leased(ground: Ground) -> dict[str, float]:
    return _measure(ground, LEASED)


def script(round: Sequence[str]) -> str:
    """A round as a script for pgbench."""
    claim, *settles = _files(round)
    texts = {name: f"{_for_pgbench(name)};\n" for name in settles}
    if "record" in texts:  # as a lane does for plain successes; a variable of pgbench cannot be NULL
        texts["record"] = texts["record"].replace(":outcomes", "NULL")
    texts[claim] = _gathered(_for_pgbench(claim).replace(":ids", ":watermark_ids"))
    return "".join(texts[text[1:-1]] if text.startswith("{") else f"{text};\n" for text in round)


def run_pgbench(dsn: str, text: str, *, transactions: int, variables: Mapping[str, str]) -> float:
    """Transactions a second of this script on one connection, prepared. Raises RuntimeError."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        Path(file.name).write_text(text, "utf-8")
        command = [str(binary("pgbench")), "-n", "-c", "1", "-j", "1", "-M", "prepared", "-f", file.name, "-t", str(transactions)]
        command += [part for name, value in variables.items() for part in ("-D", f"{name}={value}")]
        done = subprocess.run([*command, dsn], capture_output=True, text=True, check=False)
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    if done.returncode != 0 or found is None:
        raise RuntimeError(f"pgbench failed: {done.stderr.strip()[-800:]}")
    return float(found[1])


def _measure(ground: Ground, round: Sequence[str]) -> dict[str, float]:
    count = ground.sizes.tasks // BATCH * BATCH
    with ground.filled(count) as dsn:
        rate = BATCH * run_pgbench(dsn, script(round), transactions=count // BATCH, variables=_variables())
        found = server.ask(dsn, "SELECT count(*) FROM pgqueue.history")
        if found != count:
            raise RuntimeError(f"the yardstick settled {found} of {count} tasks")
    return {"rate": rate}


def _variables() -> dict[str, str]:
    return {
        "queue": "default",
        "types": "{noop}",
        "leased_types": "{}",
        "runner_id": str(uuid.uuid4()),
        "claim_id": str(uuid.uuid4()),
        "claimed_at": "now",
        "limit": str(BATCH),
        "first_priorities": f"{{{FIRST}}}",
        "maturities": "{-infinity}",
        "watermark_ids": f"{{{NIL}}}",
        "last_priorities": f"{{{LAST}}}",
        "outcomes": "{}",
    }


def _files(round: Sequence[str]) -> list[str]:
    return [text[1:-1] for text in round if text.startswith("{")]


def _gathered(claim: str) -> str:
    """The claim with its rows gathered. PostgreSQL wants a CTE that writes at the top level, so a claim that has some gets one
    more, around its last SELECT."""
    tail = GATHERED.format(first=FIRST, last=LAST, nil=NIL)
    if not claim.startswith("WITH"):
        return f"WITH claimed AS ({claim}){tail}"
    ctes, select, rows = claim.rpartition("\nSELECT")
    return f"{ctes}, claimed AS ({select}{rows}){tail}"


def _for_pgbench(name: str) -> str:
    text: str = getattr(statements("pgqueue"), name).text
    return re.sub(r"%\((\w+)\)s", r":\1", text).replace("%%", "%")
