"""Named locks: one holder at a time by the database's clock, tokens that only grow, and holders that learn of their loss."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as trials
from hypothesis import strategies as st

from pgqueue import AsyncQueue, ConfigurationError, DatabaseUnavailable, Lock, LockLost, LockRecord, LockTimeout, Queue, Settings
from pgqueue import lock_operations as operations
from pgqueue.actors import default_name
from pgqueue.database import connection_parameters, run, single
from pgqueue.link import Link
from pgqueue.locking import POLL_MAX_SECONDS, TTL_MAX, Waiting, Wish
from pgqueue.maintenance import Sweeps
from pgqueue.statements import statements
from tests.conftest import eventually, wait_until

Row = psycopg.Connection[Any]
SQL = statements("pgqueue")
NOWHERE = Queue("postgresql://127.0.0.1:1/nowhere")
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


def expire(connection: Row, name: str = "n") -> None:
    """As if the time to live had passed."""
    connection.execute("UPDATE pgqueue.named_lock SET expires_at = clock_timestamp() WHERE name = %s", (name,))


def held(record: LockRecord | None) -> LockRecord:
    assert record is not None
    return record


# ── what is refused, before anything is sent ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "a lock takes a name of 1 to 200"),
        ({"name": "n" * 201}, "one of 201 characters"),
        ({"name": "a\0"}, "control character"),
        ({"name": None}, "not None"),
        ({"ttl": timedelta(0)}, "ttl takes a timedelta above zero"),
        ({"ttl": timedelta(seconds=-1)}, "ttl takes a timedelta from 0"),
        ({"ttl": TTL_MAX + SECOND}, "ttl takes at most 366 days"),
        ({"ttl": timedelta.max}, "ttl takes a timedelta from 0"),
        ({"ttl": 5.0}, "ttl takes a timedelta"),
        ({"ttl": float("inf")}, "ttl takes a timedelta"),
        ({"ttl": None}, "ttl takes a timedelta"),
        ({"timeout": float("nan")}, "timeout takes seconds"),
        ({"timeout": float("inf")}, "timeout takes seconds"),
        ({"timeout": -1}, "timeout takes seconds"),
        ({"timeout": 10**400}, "timeout takes seconds"),
        ({"timeout": True}, "timeout takes seconds"),
        ({"timeout": "1s"}, "timeout takes seconds"),
        ({"renew": 1}, "renew takes True or False"),
        ({"renew": True, "ttl": timedelta(milliseconds=99)}, "a ttl of 0.1 s at least"),
        ({"holder": ""}, "holder takes a name"),
        ({"holder": "\ud800"}, "surrogate"),
    ],
)
@pytest.mark.parametrize("client", [NOWHERE, AsyncQueue("postgresql://127.0.0.1:1/nowhere")], ids=["sync", "async"])
def test_a_lock_that_makes_no_sense_is_refused_at_once(client: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        client.lock(**{"name": "n", "ttl": MINUTE, **options})


def test_so_are_an_acquire_an_extension_and_a_page_that_make_none() -> None:
    lock = NOWHERE.lock("n", ttl=MINUTE)
    for wrong, message in (
        (lambda: lock.acquire(wait=False, timeout=1), "give one of them"),
        (lambda: lock.acquire(wait=0), "wait takes True or False"),  # type: ignore[arg-type]
        (lambda: lock.acquire(timeout=float("inf")), "timeout takes seconds"),
        (lambda: lock.extend(timedelta(0)), "above zero"),
        (lambda: NOWHERE.locks.list(limit=0), "limit takes 1 to 1000"),
        (lambda: NOWHERE.locks.list(cursor=""), "cursor takes a name"),
        (lambda: NOWHERE.locks.get(""), "a lock takes a name"),
        (lambda: NOWHERE.locks.release("\n"), "control character"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            wrong()
    assert lock.extend() is False  # not acquired: nothing is sent
    assert lock.release() is False
    assert not lock.lost


@given(timeout=st.none() | st.floats(0, 1000), seed=st.integers())
def test_pauses_grow_are_spread_and_end_with_a_look_at_the_deadline(timeout: float | None, seed: int) -> None:
    chance, now = random.Random(seed), 5.0
    waiting = Waiting(timeout, now=now)
    for _ in range(100):
        left = chance.uniform(-1, chance.choice([0.1, 100]))
        pause = waiting.pause(left, now=now, random=chance.random)
        if pause is None:
            assert timeout is not None
            assert now == pytest.approx(5.0 + timeout)
            break
        assert 0 < pause <= min(POLL_MAX_SECONDS, max(0.0, left) + 0.011)
        now += pause
    steady = Waiting(None, now=0.0)
    total = [steady.pause(1000.0, now=0.0, random=chance.random) or 0.0 for _ in range(40)]
    assert sum(total) > 12.5, "forty looks last for longer than so many seconds: nobody hammers"


# ── one holder, and tokens that grow ────────────────────────────────────────────────────────────────────────────────


def test_a_lock_is_taken_extended_and_let_go_and_a_late_holder_harms_nobody(queue: Queue, connection: Row) -> None:
    lock, other = queue.lock("n", ttl=MINUTE, holder="ann"), queue.lock("n", ttl=MINUTE)
    assert lock.holder() is None
    first = lock.acquire()
    assert first is not None
    assert (lock.token, lock.lost, other.acquire(wait=False), other.acquire(timeout=0.05)) == (first, False, None, None)
    found = held(other.holder())
    assert (found.name, found.holder, found.token) == ("n", "ann", first)
    assert found.expires_at - found.acquired_at == pytest.approx(MINUTE, abs=SECOND)
    assert lock.extend(timedelta(hours=1))
    assert held(lock.holder()).expires_at - found.acquired_at == pytest.approx(timedelta(hours=1), abs=timedelta(seconds=20))
    with pytest.raises(ConfigurationError, match="holds the lock 'n' already"):
        lock.acquire()
    with pytest.raises(LockTimeout, match=r"lock 'n' did not come free within 0.02 s: ann holds it"):
        queue.lock("n", ttl=MINUTE, timeout=0.02).__enter__()
    with pytest.raises(TimeoutError):
        queue.lock("n", ttl=MINUTE, timeout=0).__enter__()
    assert lock.release()
    assert not lock.release()
    assert (lock.lost, lock.holder(), lock.extend()) == (False, None, False)

    # An expired holder, late: nothing of its successor's is touched.
    assert lock.acquire() == first + 1
    expire(connection)
    assert lock.holder() is None
    second = other.acquire(wait=False)
    assert second == first + 2
    assert (lock.extend(), lock.lost, lock.release(), lock.lost) == (False, True, False, True)
    assert held(lock.holder()).token == second
    assert held(lock.holder()).holder == default_name()
    assert lock.acquire(wait=False) is None
    assert not lock.lost
    assert [one.token for one in queue.locks.list()] == [second]
    assert held(queue.locks.release("n")).token == second
    assert (queue.locks.release("n"), queue.locks.get("n"), other.release()) == (None, None, False)


def test_held_locks_are_listed_by_name_page_by_page(queue: Queue, connection: Row) -> None:
    for name in ("c", "a", "d", "b", "é [red]"):
        queue.lock(name, ttl=MINUTE).acquire()
    expire(connection, "c")
    page = queue.locks.list(limit=3)
    assert ([one.name for one in page], page.cursor) == (["a", "b", "d"], "d")
    page = queue.locks.list(limit=3, cursor=page.cursor)
    assert ([one.name for one in page], page.cursor, len(page)) == (["é [red]"], None, 1)


VERBS = ("acquire", "extend", "release", "expire", "force", "forget", "setback")


@trials(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(VERBS), st.integers(0, 2)), max_size=30))
def test_whatever_happens_one_holds_and_tokens_only_grow(connection: Row, steps: list[tuple[str, int]]) -> None:
    """Against a model of three holders: who holds it, and the highest token."""
    name, claims = uuid.uuid4().hex, [uuid.uuid4() for _ in range(3)]
    holder, highest = None, 0
    for verb, who in steps:
        if verb == "acquire":
            fresh = uuid.uuid4()
            attempt = run(connection, operations.acquire(SQL, wish(name, f"holder {who}"), fresh))
            assert (attempt.token is not None) == (holder is None)
            if attempt.token is None:
                assert (attempt.holder, 0 < attempt.left_seconds <= 60) == (f"holder {holder}", True)
            else:
                assert attempt.token > highest
                holder, highest, claims[who] = who, attempt.token, fresh
        elif verb == "extend":
            assert run(connection, operations.extend(SQL, name, claims[who], MINUTE)) == (holder == who)
        elif verb == "release":
            assert run(connection, operations.release(SQL, name, claims[who], believed=False)) == (holder == who)
            holder = None if holder == who else holder
        elif verb == "force":
            taken = run(connection, operations.release_by_force(SQL, name, None))
            assert (None if taken is None else taken.holder) == (None if holder is None else f"holder {holder}")
            holder = None
        elif verb == "expire":
            expire(connection, name)
            holder = None
        elif verb == "forget":
            run(connection, single(SQL.forget_locks(before=soon(connection), limit=1000)))
        else:  # as logical replication leaves a sequence behind; what was forgotten by then nobody can know
            known = "FROM pgqueue.named_lock WHERE name = %s"
            connection.execute(f"SELECT setval('pgqueue.lock_token', 1, false) {known}", (name,))
        assert (run(connection, operations.get(SQL, name)) is None) == (holder is None)


def wish(name: str, holder: str) -> Wish:
    return Wish(name, MINUTE, None, False, holder)


def soon(connection: Row) -> Any:
    row = connection.execute("SELECT clock_timestamp() + interval '1 ms'").fetchone()
    assert row is not None
    return row[0]


WITNESS = """
CREATE TABLE witness (id bigint GENERATED ALWAYS AS IDENTITY, token bigint, acquired_at timestamptz, was_free boolean);
CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO witness (token, acquired_at, was_free)
    VALUES (new.token, new.acquired_at, old.holder IS NULL OR old.expires_at <= new.acquired_at);
    RETURN new;
END $$;
CREATE TRIGGER witness AFTER UPDATE ON pgqueue.named_lock FOR EACH ROW WHEN (new.token <> old.token) EXECUTE FUNCTION witness();
"""


def test_of_many_that_compete_none_holds_it_before_the_last_has_let_go_or_expired(
    migrated_database: str, settings: Settings, connection: Row
) -> None:
    connection.execute(WITNESS)
    inside, seen, errors = [0], [], []

    def compete(seed: int) -> None:
        chance = random.Random(seed)
        try:
            with Queue(migrated_database, settings=settings, pool_size=1) as queue:
                for _ in range(12):
                    abandons = chance.random() < 0.25
                    lock = queue.lock("n", ttl=timedelta(milliseconds=chance.choice([5, 15])) if abandons else MINUTE)
                    token = lock.acquire()
                    if not abandons:
                        inside[0] += 1
                        seen.append((token, inside[0]))
                        inside[0] -= 1
                        assert lock.release()
        except BaseException as error:
            errors.append(error)

    seed = random.randrange(10**6)
    print("seed", seed)
    threads = [threading.Thread(target=compete, args=(seed + number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {count for _, count in seen} == {1}
    assert seen == sorted(seen)
    witnessed = connection.execute("SELECT token, acquired_at, was_free FROM witness ORDER BY id").fetchall()
    assert len(witnessed) == 6 * 12
    assert all(was_free for _, _, was_free in witnessed)
    assert [row[0] for row in witnessed] == sorted({row[0] for row in witnessed})


PROGRAM = """
import sys
from datetime import timedelta
from pgqueue import Queue
with Queue(sys.argv[1]) as queue:
    with queue.lock("n", ttl=timedelta(seconds=1.5), renew=True) as token:
        print(token, flush=True)
        sys.stdin.read()
"""


def test_the_lock_of_a_killed_process_comes_free_when_its_time_has_passed_and_not_before(
    queue: Queue, migrated_database: str, connection: Row
) -> None:
    connection.execute(WITNESS)
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, migrated_database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert program.stdout is not None
        first = int(program.stdout.readline())
        lock = queue.lock("n", ttl=MINUTE)
        begun = held(lock.holder()).expires_at
        wait_until(lambda: held(lock.holder()).expires_at > begun, timeout=5)  # it renews itself
    finally:
        program.send_signal(signal.SIGKILL)
        program.communicate()
    last = held(lock.holder()).expires_at
    token = lock.acquire(timeout=10)
    assert token is not None
    assert token > first
    assert held(lock.holder()).acquired_at >= last
    assert connection.execute("SELECT bool_and(was_free) FROM witness").fetchone() == (True,)


def test_an_answer_that_was_lost_costs_neither_the_lock_nor_the_truth(connection: Row) -> None:
    claim, ann = uuid.uuid4(), wish("n", "ann")
    first = run(connection, operations.acquire(SQL, ann, claim))
    again = run(connection, operations.acquire(SQL, ann, claim))
    assert first.token is not None
    assert again.token == first.token + 1
    assert run(connection, operations.acquire(SQL, wish("n", "bob"), uuid.uuid4())).token is None
    assert run(connection, operations.release(SQL, "n", claim, believed=True))
    assert run(connection, operations.release(SQL, "n", claim, believed=True, repeated=True))
    assert not run(connection, operations.release(SQL, "n", claim, believed=False, repeated=True))
    assert not run(connection, operations.release(SQL, "n", claim, believed=True))


def test_one_who_waits_for_a_row_in_somebodys_transaction_sees_what_became_of_it(
    queue: Queue, connection: Row, migrated_database: str
) -> None:
    queue.lock("n", ttl=MINUTE).acquire()
    lock, tokens = queue.lock("n", ttl=MINUTE), []
    with psycopg.connect(migrated_database) as other:
        other.execute("UPDATE pgqueue.named_lock SET expires_at = clock_timestamp()")
        other.execute("COMMIT")
        other.execute("UPDATE pgqueue.named_lock SET holder = 'bob', expires_at = clock_timestamp() + interval '1 min'")
        thread = threading.Thread(target=lambda: tokens.append(lock.acquire(wait=False)))
        thread.start()
        wait_until(
            lambda: connection.execute("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone() is not None
        )
    thread.join()
    assert tokens == [None]
    assert held(lock.holder()).holder == "bob"


# ── a block that holds it ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_block_gets_the_token_and_lets_go_also_when_it_raises(queue: Queue) -> None:
    lock = queue.lock("n", ttl=MINUTE)
    with lock as token:
        assert held(lock.holder()).token == token
    assert lock.holder() is None
    with pytest.raises(ZeroDivisionError) as failure, lock as again:
        assert again == token + 1
        1 / 0  # noqa: B018
    assert not hasattr(failure.value, "__notes__")
    assert lock.holder() is None
    with lock:
        assert lock.release()  # early, by hand
    assert not lock.lost


def test_a_block_that_outlasts_its_lock_ends_with_an_error_and_keeps_its_own_if_it_has_one(queue: Queue) -> None:
    lock = queue.lock("n", ttl=timedelta(milliseconds=20))
    with pytest.raises(LockLost, match=r"lock 'n', token \d+, was not held until the end: .* or renew=True"), lock:
        wait_until(lambda: lock.lost)
        other = queue.lock("n", ttl=MINUTE)
        assert other.acquire(timeout=5)
    assert held(other.holder()).token == other.token
    assert other.release()
    with pytest.raises(KeyError) as failure, lock:
        wait_until(lambda: lock.lost)
        raise KeyError("mine")
    assert "was not held until the end" in failure.value.__notes__[0]


def test_a_lock_that_renews_itself_is_held_until_the_end_unless_it_is_taken_away(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ttl = SECOND
    lock, extend, failures = queue.lock("n", ttl=ttl, renew=True), Lock.extend, iter([True, False])

    def flaky(self: Lock, ttl: timedelta | None = None) -> bool:
        if next(failures, False):
            raise DatabaseUnavailable("away for a moment")
        return extend(self, ttl)

    with monkeypatch.context() as patch, lock:
        patch.setattr(Lock, "extend", flaky)
        acquired_at = held(lock.holder()).acquired_at
        wait_until(lambda: held(lock.holder()).expires_at > acquired_at + 1.5 * ttl)
        assert not lock.lost
    assert not lock.lost
    assert "could not be renewed, trying on: away for a moment" in caplog.text
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pgqueue lock")]

    with pytest.raises(LockLost), lock:
        queue.locks.release("n")
        wait_until(lambda: lock.lost)
    assert "is lost: it expired, or was released by force" in caplog.text


# ── asyncio ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_async_client_does_the_same(async_queue: AsyncQueue, caplog: pytest.LogCaptureFixture) -> None:
    lock, other = async_queue.lock("n", ttl=MINUTE, holder="ann"), async_queue.lock("n", ttl=MINUTE, timeout=0.02)
    assert await lock.acquire() == 1
    assert await other.acquire(wait=False) is None
    with pytest.raises(LockTimeout, match="ann holds it"):
        await other.__aenter__()
    assert await lock.extend(timedelta(hours=1))
    assert held(await other.holder()) == held(await async_queue.locks.get("n"))
    assert [one.holder for one in await async_queue.locks.list()] == ["ann"]
    assert await lock.release()
    assert not await lock.release()

    inside = [0]

    async def compete(rounds: int) -> list[int]:
        tokens = []
        for _ in range(rounds):
            async with async_queue.lock("n", ttl=MINUTE) as token:
                inside[0] += 1
                assert inside[0] == 1
                tokens.append(token)
                inside[0] -= 1
        return tokens

    tokens = [token for some in await asyncio.gather(*(compete(5) for _ in range(4))) for token in some]
    assert len(set(tokens)) == 20

    renewed = async_queue.lock("n", ttl=SECOND, renew=True)
    with pytest.raises(LockLost):
        async with renewed:
            acquired_at = held(await renewed.holder()).acquired_at

            async def was_renewed() -> bool:
                return held(await renewed.holder()).expires_at > acquired_at + 1.2 * SECOND

            await eventually(was_renewed)
            assert not renewed.lost
            assert held(await async_queue.locks.release("n")).token == renewed.token
            await eventually(lambda: renewed.lost)
    assert "is lost" in caplog.text
    short = async_queue.lock("n", ttl=timedelta(milliseconds=10))
    with pytest.raises(KeyError) as failure:
        async with short:
            await eventually(lambda: short.lost)
            raise KeyError
    assert "was not held until the end" in failure.value.__notes__[0]


async def test_an_acquire_that_is_cancelled_leaves_nothing_held(async_queue: AsyncQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the worst moment: the lock is taken, and the answer not read yet."""
    real = AsyncQueue._run

    async def cancelled_too_late(self: AsyncQueue, operation: Callable[[], Any]) -> Any:
        attempt = await real(self, operation)
        if getattr(attempt, "token", None) is not None:
            raise asyncio.CancelledError
        return attempt

    lock = async_queue.lock("n", ttl=MINUTE)
    with monkeypatch.context() as patch:
        patch.setattr(AsyncQueue, "_run", cancelled_too_late)
        with pytest.raises(asyncio.CancelledError):
            await lock.acquire()
    assert await lock.holder() is None
    assert await lock.acquire(wait=False)
    waiting = asyncio.create_task(async_queue.lock("n", ttl=MINUTE).acquire())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert held(await lock.holder()).token == lock.token


# ── upkeep ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_names_that_nobody_uses_are_forgotten_and_their_tokens_never_go_back(
    queue: Queue, connection: Row, migrated_database: str, settings: Settings
) -> None:
    link = Link(connection_parameters(migrated_database), name="test", deadline_seconds=10)
    for name in ("old", "young", "held", "ahead"):
        queue.lock(name, ttl=MINUTE).acquire()
    connection.execute("UPDATE pgqueue.named_lock SET expires_at = now() - interval '25 h' WHERE name IN ('old', 'ahead')")
    connection.execute("UPDATE pgqueue.named_lock SET expires_at = now() - interval '23 h' WHERE name = 'young'")
    connection.execute("UPDATE pgqueue.named_lock SET token = 1000 WHERE name = 'ahead'")  # a sequence left behind
    await Sweeps(SQL, link, settings).sweep()
    await link.drop()
    names = connection.execute("SELECT name FROM pgqueue.named_lock ORDER BY name").fetchall()
    assert names == [("ahead",), ("held",), ("young",)]
    assert queue.lock("ahead", ttl=MINUTE).acquire() == 1001
    assert queue.lock("old", ttl=MINUTE).acquire() == 6, "five were drawn"
