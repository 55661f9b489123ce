"""Instants as PostgreSQL sends them: microseconds since the year 2000, in UTC. Ground: pure.

They sort like datetimes, and cost a twentieth to read: two datetimes were most of what it took to read a claimed row.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def instant(microseconds: int) -> datetime:
    """As a datetime in UTC."""
    return EPOCH + timedelta(microseconds=microseconds)


def microseconds(at: datetime) -> int:
    """As PostgreSQL sends it."""
    return (at - EPOCH) // MICROSECOND
