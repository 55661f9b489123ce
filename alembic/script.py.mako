"""${message}."""

from __future__ import annotations

from pathlib import Path

from pgqueue.migrations import run_sql

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}

# The oldest revision whose programs still work on this one: they go on running while newer ones start.
oldest_compatible = ${repr(down_revision)}


def upgrade() -> None:
    run_sql(Path(__file__).with_suffix(".sql"))
    ${upgrades if upgrades else ""}


def downgrade() -> None:
    ${downgrades if downgrades else "raise NotImplementedError"}
