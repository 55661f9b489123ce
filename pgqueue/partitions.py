"""Daily partitions of what is kept for a while: made ahead of time, dropped by retention. Days are UTC.

`ensure` and `retain` are generators without I/O: steps.py's `run` and `arun` drive them over a connection in autocommit. Each
script is one message to the server and one transaction, so a client that is killed in the middle leaves nothing half done and
holds no lock. No lock is waited for longer than LOCK_TIMEOUT, because whoever comes later waits behind the one who waits;
what could not be had is postponed to the next call, and said so.

Partitions are made as tables and then attached, emptied and then dropped: CREATE … PARTITION OF, like DROP, wants every
transaction gone that has touched the parent. Only a partition with the name we give is ever dropped, and no table that is
not attached is touched: it may be somebody's archive.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from psycopg import sql

from pgqueue.errors import ConfigurationError
from pgqueue.statements import statements
from pgqueue.steps import Postponed, Script, Steps, tried

PARENTS = (("history", "finished_at"), ("attempt", "finished_at"), ("task_log", "logged_at"))
"""The partitioned tables and the instant that decides about a row's day."""

DAYS_AHEAD = 3
LOCK_TIMEOUT = "100ms"
WORK_TIMEOUT = "500ms"
"""How long a statement may hold the default partition while a day's rows are moved out of it."""
SCAN_TIMEOUT = timedelta(seconds=15)
SMALL_BYTES = 8 * 1024 * 1024
"""Up to this size the default partition is searched while it is locked."""
GUARD_DAYS = 2
"""A day is kept out of a large default partition only if it is so far ahead that somebody repairs what a killed one left."""
DELETE_BATCH = 5_000
DELETE_BATCHES_MAX = 200


@dataclass(frozen=True, slots=True)
class Ensured:
    """What `ensure` did: partitions made, rows moved into them, and what has to wait for the next call, with the reason."""

    made: tuple[str, ...] = ()
    moved_count: int = 0
    postponed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Retained:
    """What `retain` did: partitions dropped, rows deleted from the default one, and what has to wait, with the reason."""

    dropped: tuple[str, ...] = ()
    deleted_count: int = 0
    postponed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Parent:
    """A partitioned table as it was found."""

    schema: str
    table: str
    column: str
    now: datetime
    attached: dict[str, datetime | None]
    default: str
    default_bytes: int
    guards: tuple[str, ...]

    @property
    def today(self) -> date:
        return self.now.astimezone(UTC).date()

    def script(self, template: sql.SQL, child: str = "", day: date | None = None, **more: sql.Composable) -> Script:
        """Fill in a template. Timeouts end with its transaction."""
        lower = datetime.combine(day or date.min, datetime.min.time(), UTC)
        names: dict[str, sql.Composable] = {
            "parent": sql.Identifier(self.schema, self.table),
            "default": sql.Identifier(self.schema, self.default),
            "child": sql.Identifier(self.schema, child),
            "column": sql.Identifier(self.column),
            "guard": sql.Identifier(_guard(day)) if day else sql.SQL(""),
            "lower": sql.Literal(lower),
            "upper": sql.Literal(lower + timedelta(days=1)),
        }
        timeouts = _TIMEOUTS.format(lock=sql.Literal(LOCK_TIMEOUT), work=more.pop("timeout", sql.Literal(WORK_TIMEOUT)))
        return Script(timeouts + template.format(**names, **more))


# ── what is asked of the server ─────────────────────────────────────────────────────────────────────────────────────────────

_TIMEOUTS = sql.SQL("SET LOCAL lock_timeout = {lock}; SET LOCAL statement_timeout = {work}; ")

# Both modes keep a second maker out. SHARE UPDATE EXCLUSIVE lets inserts and reads pass; SHARE, for a day whose rows may be on
# their way, waits for inserts and holds them up: one that has been routed to the default partition and waits for it would fail
# with 23514 when the day's partition appears. The default is locked last; from there on readers wait too.
_FUTURE, _IMMINENT = sql.SQL("SHARE UPDATE EXCLUSIVE"), sql.SQL("SHARE")
_MAKE = sql.SQL("""
LOCK TABLE ONLY {parent} IN {mode} MODE;
CREATE TABLE {child} (LIKE {parent} INCLUDING ALL, CONSTRAINT bounds CHECK ({column} >= {lower} AND {column} < {upper}));
LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE;
WITH moved AS (DELETE FROM {default} WHERE {column} >= {lower} AND {column} < {upper} RETURNING *)
INSERT INTO {child} SELECT * FROM moved;
ALTER TABLE {parent} ATTACH PARTITION {child} FOR VALUES FROM ({lower}) TO ({upper});
ALTER TABLE {child} DROP CONSTRAINT bounds;
""")

# ATTACH searches the default partition for rows of the day, locked, unless a valid constraint says that there are none.
_GUARD = sql.SQL("ALTER TABLE {default} ADD CONSTRAINT {guard} CHECK ({column} < {lower} OR {column} >= {upper}) NOT VALID")
_VALIDATE = sql.SQL("ALTER TABLE {default} VALIDATE CONSTRAINT {guard}")
_MAKE_GUARDED = sql.SQL("""
LOCK TABLE ONLY {parent} IN SHARE UPDATE EXCLUSIVE MODE;
CREATE TABLE {child} (LIKE {parent} INCLUDING ALL);
ALTER TABLE {parent} ATTACH PARTITION {child} FOR VALUES FROM ({lower}) TO ({upper});
ALTER TABLE {default} DROP CONSTRAINT {guard};
""")
# NOWAIT: whoever validates a guard right now holds this lock, and is not to be disturbed.
_UNGUARD = sql.SQL("""
LOCK TABLE {default} IN SHARE UPDATE EXCLUSIVE MODE NOWAIT;
ALTER TABLE {default} DROP CONSTRAINT IF EXISTS {guard};
""")

_EMPTY = sql.SQL("TRUNCATE {child}")
_DROP = sql.SQL("DROP TABLE {child}")
_DELETE = sql.SQL("""
DELETE FROM {default} WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM {default} WHERE {column} < {cutoff} LIMIT {batch} FOR UPDATE SKIP LOCKED
))
""")


# ── making ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def ensure(
    *, schema: str = "pgqueue", days_ahead: int = DAYS_AHEAD, now: datetime | None = None, scan_timeout: timedelta = SCAN_TIMEOUT
) -> Steps[Ensured]:
    """Make the partitions of today and of so many days ahead; harmless to repeat, and for any number at once.

    Rows of a day that fell into the default partition move into the new one, unless the default has grown so large that
    searching it would stall others: then only days still ahead are made, and `scan_timeout` bounds the search for each.
    """
    total = Ensured()
    for table, column in PARENTS:
        parent = yield from _find(schema, table, column, now)
        if parent is not None:
            total = _sum(total, (yield from _make_all(parent, days_ahead, scan_timeout)))
    return total


def _make_all(parent: _Parent, days_ahead: int, scan_timeout: timedelta) -> Steps[Ensured]:
    """The days of one table, the farthest first: they ask for less. If one finds the table in use, so would the next."""
    for guard in parent.guards:
        yield from tried(parent.script(_UNGUARD, day=_day_of(guard)), f"{parent.default}: a constraint left behind")
    total = Ensured()
    for day in (parent.today + timedelta(days=n) for n in range(days_ahead, -1, -1)):
        child = _name(parent.table, day)
        if child in parent.attached:
            continue
        outcome = yield from _make(parent, child, day, scan_timeout)
        if isinstance(outcome, int):
            total = _sum(total, Ensured((child,), outcome))
        elif not (yield from _is_attached(parent, child)):  # else somebody was faster
            total = _sum(total, Ensured(postponed=(outcome.reason,)))
            if outcome.in_use:
                break
    return total


def _make(parent: _Parent, child: str, day: date, scan_timeout: timedelta) -> Steps[int | Postponed]:
    """One day's partition, in one transaction if the default partition is small."""
    if parent.default_bytes <= SMALL_BYTES:
        mode = _IMMINENT if day <= parent.today + timedelta(days=1) else _FUTURE
        return (yield from tried(parent.script(_MAKE, child, day, mode=mode), child))
    if day >= parent.today + timedelta(days=GUARD_DAYS):
        return (yield from _make_guarded(parent, child, day, scan_timeout))
    size = f"{parent.default} is {parent.default_bytes >> 20} MB large"
    return Postponed(f"{child}: {size}; its rows stay there until deleted by age", in_use=False)


def _make_guarded(parent: _Parent, child: str, day: date, scan_timeout: timedelta) -> Steps[int | Postponed]:
    """A partition beside a large default one, which is searched while others write to it."""
    timeout = sql.Literal(_milliseconds(scan_timeout))
    outcome = yield from tried(parent.script(_GUARD, child, day), child)
    if isinstance(outcome, int):
        outcome = yield from tried(parent.script(_VALIDATE, child, day, timeout=timeout), child)
    if isinstance(outcome, int):
        outcome = yield from tried(parent.script(_MAKE_GUARDED, child, day), child)
    if isinstance(outcome, Postponed):
        yield from tried(parent.script(_UNGUARD, child, day), child)
    return outcome


def _is_attached(parent: _Parent, child: str) -> Steps[bool]:
    found = yield from _find(parent.schema, parent.table, parent.column, parent.now)
    return found is not None and child in found.attached


# ── dropping ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def retain(table: str, *, older_than: datetime, schema: str = "pgqueue") -> Steps[Retained]:
    """Drop the partitions that hold only rows older than an instant, and delete such rows from the default partition.

    A partition is emptied first, which gives its space back even where a long transaction keeps it from being dropped.
    """
    column = dict(PARENTS).get(table)
    if column is None or older_than.tzinfo is None:
        tables = ", ".join(dict(PARENTS))
        raise ConfigurationError(f"retain needs one of {tables}, and an instant with a timezone; not {table} and {older_than}")
    parent = yield from _find(schema, table, column, None)
    if parent is None:
        return Retained()
    old = [name for name, upper_at in parent.attached.items() if _is_ours(parent, name) and upper_at and upper_at <= older_than]
    emptied, kept = yield from _each(parent, _EMPTY, old)
    dropped, left = yield from _each(parent, _DROP, emptied)
    deleted = yield from _delete(parent, older_than)
    postponed = [*kept, *left, *([deleted] if isinstance(deleted, Postponed) else [])]
    return Retained(tuple(dropped), deleted if isinstance(deleted, int) else 0, tuple(each.reason for each in postponed))


def _each(parent: _Parent, template: sql.SQL, names: list[str]) -> Steps[tuple[list[str], list[Postponed]]]:
    """Do it to each partition, until one is found in use: the next would be too."""
    done: list[str] = []
    postponed: list[Postponed] = []
    for name in names:
        outcome = yield from tried(parent.script(template, name), name)
        if isinstance(outcome, int):
            done.append(name)
            continue
        postponed.append(outcome)
        if outcome.in_use:
            break
    return done, postponed


def _delete(parent: _Parent, older_than: datetime) -> Steps[int | Postponed]:
    """Delete old rows of the default partition in batches; rows that somebody holds are left for the next call."""
    batch = parent.script(
        _DELETE, cutoff=sql.Literal(older_than), batch=sql.Literal(DELETE_BATCH), timeout=sql.Literal(_milliseconds(SCAN_TIMEOUT))
    )
    deleted_count = 0
    for _ in range(DELETE_BATCHES_MAX):
        outcome = yield from tried(batch, parent.default)
        if isinstance(outcome, Postponed):
            return outcome if deleted_count == 0 else deleted_count
        deleted_count += outcome
        if outcome < DELETE_BATCH:
            break
    return deleted_count


# ── ground ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _find(schema: str, table: str, column: str, now: datetime | None) -> Steps[_Parent | None]:
    """What is there of a table; None without the table or its default partition."""
    result = yield statements(schema).partitions(schema=schema, table=table, now=now)
    attached = {name: upper_at for name, _, upper_at, *_ in result.rows}
    for name, is_default, _, size_bytes, guards, found_now in result.rows:
        if is_default:
            return _Parent(schema, table, column, found_now, attached, name, size_bytes, tuple(guards))
    return None


def _name(table: str, day: date) -> str:
    return f"{table}_{day:%Y%m%d}"


def _is_ours(parent: _Parent, name: str) -> bool:
    return re.fullmatch(rf"{parent.table}_\d{{8}}", name) is not None


def _guard(day: date) -> str:
    return f"pgqueue_without_{day:%Y%m%d}"


def _day_of(name: str) -> date:
    return date.fromisoformat(name[-8:])


def _milliseconds(duration: timedelta) -> str:
    return f"{int(duration.total_seconds() * 1000)}ms"


def _sum(one: Ensured, other: Ensured) -> Ensured:
    return Ensured(one.made + other.made, one.moved_count + other.moved_count, one.postponed + other.postponed)
