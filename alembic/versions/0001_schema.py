"""The whole schema, as raw SQL."""

from __future__ import annotations

from pathlib import Path

from pgqueue.migrations import run_sql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# The oldest revision whose programs still work on this one: they go on running while newer ones start.
oldest_compatible = "0001"


def upgrade() -> None:
    """Make every type, function and table."""
    run_sql(Path(__file__).with_suffix(".sql"))


def downgrade() -> None:
    """Drop them all, with what they hold. The schema itself stays: others may keep things in it."""
    run_sql(Path(__file__).with_name("0001_schema_down.sql"))
