"""The operations of named locks, each a statement or a few, each statement a transaction of its own.

A claim, a fresh UUID for each acquisition, is the fence: only the claim that holds a lock extends or releases it. So an
acquisition whose answer was lost may be asked for again, and one that nobody waits for any more can be given back.
"""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any, NamedTuple

from pgqueue.actors import Actor
from pgqueue.audit import audited
from pgqueue.database import Operation, Rows
from pgqueue.locking import Wish
from pgqueue.records import LockPage, LockRecord
from pgqueue.statements import Statements

LOOKS_MAX = 10
"""How often one try looks again when the lock came free or was taken under its eyes."""


class Attempt(NamedTuple):
    """What a try came to: the fencing token, or None and who holds the lock for how long still."""

    token: int | None
    holder: str | None
    left_seconds: float


def acquire(sql: Statements, wish: Wish, claim_id: uuid.UUID) -> Operation[Attempt]:
    """Take the lock if it is free, without waiting for its holder."""
    attempt = Attempt(None, None, 0.0)
    for _ in range(LOOKS_MAX):
        rows = yield sql.lock_take(name=wish.name, holder=wish.holder, claim_id=claim_id, ttl=wish.ttl)
        if not rows:
            yield sql.lock_name(name=wish.name)
            continue
        attempt = Attempt(*rows[0])
        if attempt.token is not None or attempt.left_seconds > 0:
            break
    return attempt


def extend(sql: Statements, name: str, claim_id: uuid.UUID, ttl: timedelta) -> Operation[bool]:
    """Hold it for so long from now. False: it is lost."""
    return bool((yield sql.lock_extend(name=name, claim_id=claim_id, ttl=ttl)))


def release(sql: Statements, name: str, claim_id: uuid.UUID, *, believed: bool, repeated: bool = False) -> Operation[bool]:
    """Let go of it. False: it was lost before.

    `repeated`: an attempt whose commit is unknown may have released it; then what the holder's own clock believes decides.
    """
    rows = yield sql.lock_release(name=name, claim_id=claim_id)
    return bool(rows) or (repeated and believed)


def release_by_force(sql: Statements, name: str, by: Actor | None) -> Operation[LockRecord | None]:
    """Take it away from whoever holds it, and say who that was. None: it was free."""

    def details(rows: Rows) -> dict[str, Any]:
        return {"holder": rows[0][1], "token": rows[0][2]}

    rows = yield from audited(sql, by, "release", f"lock:{name}", sql.lock_force(name=name), details)
    return LockRecord(*rows[0]) if rows else None


def get(sql: Statements, name: str) -> Operation[LockRecord | None]:
    """Who holds it. None: it is free."""
    rows = yield sql.lock_get(name=name)
    return LockRecord(*rows[0]) if rows else None


def list_locks(sql: Statements, limit: int, after: str | None) -> Operation[LockPage]:
    """One page. One row more than the limit is read, to know whether there is a next page."""
    rows = yield sql.locks(after=after, limit=limit + 1)
    locks = tuple(LockRecord(*row) for row in rows[:limit])
    return LockPage(locks, locks[-1].name if len(rows) > limit else None)
