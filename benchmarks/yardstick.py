"""The yardstick: pgbench executing the project's own claim and settle statements on one connection, without any Python.

It claims from its watermark and settles what it claimed, as a runner does; it runs nothing in between and overlaps nothing.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import uuid
from pathlib import Path

from pgqueue.embedded import binary
from pgqueue.statements import Statement, statements
from pgqueue.watermark import FIRST, LAST, NIL

SCRIPT = """
WITH claimed AS ({claim})
SELECT
    '{{' || string_agg(id, ',' ORDER BY id) || '}}' AS ids,
    '{{' || string_agg('"' || id || '":"' || :claim_id || '"', ',') || '}}' AS claims,
    '{{{first},' || -priority || '}}' AS first_priorities,
    '{{' || (-priority - 1) || ',{last}}}' AS last_priorities,
    '{{-infinity,"' || max(maturity_at) || '"}}' AS maturities,
    '{{{nil},' || (max(ARRAY[id])::text[])[1] || '}}' AS watermark_ids
FROM claimed GROUP BY priority
\\gset
{settle};
"""


def rate(dsn: str, *, types: list[str], count: int, batch: int) -> float:
    """Tasks a second over `count` ready tasks of the default queue, `batch` at a time."""
    sql = statements("pgqueue")
    claim = _for_pgbench(sql.claim).replace(":ids", ":watermark_ids")
    variables = {
        "queue": "default",
        "types": "{" + ",".join(types) + "}",
        "runner_id": str(uuid.uuid4()),
        "claim_id": str(uuid.uuid4()),
        "limit": str(batch),
        "first_priorities": f"{{{FIRST}}}",
        "maturities": "{-infinity}",
        "watermark_ids": f"{{{NIL}}}",
        "last_priorities": f"{{{LAST}}}",
        "outcomes": "{}",
    }
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        text = SCRIPT.format(claim=claim, settle=_for_pgbench(sql.settle), first=FIRST, last=LAST, nil=NIL)
        Path(script.name).write_text(text, "utf-8")
        command = [
            str(binary("pgbench")),
            "-n",
            "-c",
            "1",
            "-j",
            "1",
            "-M",
            "prepared",
            "-f",
            script.name,
            "-t",
            str(count // batch),
        ]
        command += [part for name, value in variables.items() for part in ("-D", f"{name}={value}")]
        done = subprocess.run([*command, dsn], capture_output=True, text=True, check=False)
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    if done.returncode != 0 or found is None:
        raise RuntimeError(f"pgbench failed: {done.stderr.strip()[-800:]}")
    return float(found[1]) * batch


def _for_pgbench(statement: Statement) -> str:
    return re.sub(r"%\((\w+)\)s", r":\1", statement.text).replace("%%", "%")
