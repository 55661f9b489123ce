"""Lock first, lease later, against a model: whatever happens in whatever order, no task is lost, doubled, or settled by a stranger.

hypothesis chooses what happens; the statements and the server are real (lane_model.py). The checker is checked too: with a fence
taken out of the SQL it must find that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from pgqueue.statements import Statements
from tests.lane_bench import Bench, Run, Runner, Violation
from tests.lane_model import OUTCOMES, TYPES, World

QUICKLY = settings(
    phases=[Phase.generate],
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)
THOROUGHLY = settings(QUICKLY, max_examples=500, stateful_step_count=60, derandomize=False)
UNTIL_FOUND = settings(QUICKLY, max_examples=1_000)
NUMBERS = st.integers(0, 11)
NOW_AND_THEN = st.sampled_from([False, False, False, True])


class Lanes(RuleBasedStateMachine):
    """Every rule picks by number from what there is, so that a failing run shrinks well."""

    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.bench)

    def runner(self, number: int) -> Runner:
        return self.world.runners[number % len(self.world.runners)]

    def _all(self, name: str) -> list[tuple[Runner, Any]]:
        return [(runner, one) for runner in self.world.runners for one in getattr(runner, name)]

    @property
    def lanes(self) -> list[tuple[Runner, Any]]:
        return self._all("lanes")

    @property
    def lost(self) -> list[tuple[Runner, Any]]:
        return self._all("lost")

    @property
    def blocks(self) -> list[tuple[Runner, Any]]:
        return self._all("blocks")

    @property
    def leased(self) -> list[tuple[Runner, Run]]:
        return [(runner, run) for runner, run in self._all("runs") if run.outcome is None]

    @property
    def unfinished(self) -> list[Run]:
        held = [run for _, held in self.lanes + self.lost for run in held.locked if run.outcome is None]
        return [*held, *(run for _, run in self.leased)]

    # ── work ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: len(self.world.enqueued) < 16)
    @rule(count=st.integers(1, 4), type=st.sampled_from(TYPES), priority=st.sampled_from([100, 200]), is_later=NOW_AND_THEN)
    def enqueue(self, count: int, type: str, priority: int, is_later: bool) -> None:
        for _ in range(count):
            self.world.enqueue(type, priority, 3600.0 if is_later else 0.0)

    @precondition(lambda self: len(self.lanes) < 6)
    @rule(number=NUMBERS, limit=st.integers(1, 5), leased=st.sampled_from([[], ["slow"], TYPES]))
    def lock(self, number: int, limit: int, leased: list[str]) -> None:
        self.world.lock(self.runner(number), limit, leased)

    @rule(number=NUMBERS, limit=st.integers(1, 5), reply_is_lost=NOW_AND_THEN)
    def claim(self, number: int, limit: int, reply_is_lost: bool) -> None:
        self.world.claim(self.runner(number), limit, reply_is_lost=reply_is_lost)

    @precondition(lambda self: self.unfinished)
    @rule(numbers=st.sets(NUMBERS, min_size=1, max_size=4), outcome=st.sampled_from(sorted(OUTCOMES)), is_kept=st.booleans())
    def finish(self, numbers: set[int], outcome: str, is_kept: bool) -> None:
        runs = self.unfinished
        for run in {runs[number % len(runs)] for number in numbers}:
            run.outcome, run.keep = OUTCOMES[outcome], is_kept

    @precondition(lambda self: self.lanes)
    @rule(number=NUMBERS, killed_at=st.sampled_from([None, None, None, 0, 1, 2, 3, 4, 5]), reply_is_lost=NOW_AND_THEN)
    def close(self, number: int, killed_at: int | None, reply_is_lost: bool) -> None:
        runner, held = self.lanes[number % len(self.lanes)]
        self.world.close(runner, held, killed_at=killed_at, reply_is_lost=reply_is_lost)

    @precondition(lambda self: self._all("runs"))
    @rule(number=NUMBERS, reply_is_lost=NOW_AND_THEN)
    def flush(self, number: int, reply_is_lost: bool) -> None:
        self.world.flush(self.runner(number), reply_is_lost=reply_is_lost)

    @precondition(lambda self: self.leased)
    @rule(number=NUMBERS)
    def open_block(self, number: int) -> None:
        self.world.open_block(*self.leased[number % len(self.leased)])

    @precondition(lambda self: self.blocks)
    @rule(number=NUMBERS, how=st.sampled_from(["COMMIT", "COMMIT", "ROLLBACK", "kill"]))
    def end_block(self, number: int, how: str) -> None:
        self.world.end_block(*self.blocks[number % len(self.blocks)], how=how)

    # ── trouble ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.lanes)
    @rule(number=NUMBERS)
    def lose(self, number: int) -> None:
        runner, held = self.lanes[number % len(self.lanes)]
        self.world.lose(runner, held)

    @precondition(lambda self: self.lost)
    @rule(number=NUMBERS)
    def regain(self, number: int) -> None:
        self.world.regain(*self.lost[number % len(self.lost)])

    @rule(number=NUMBERS, outstayed=st.sets(NUMBERS, max_size=2))
    def crash(self, number: int, outstayed: set[int]) -> None:
        runner = self.runner(number)
        running = [run for run in [*runner.runs, *(run for held in runner.lanes for run in held.locked)] if run.outcome is None]
        self.world.crash(runner, outstayed=list({running[one % len(running)] for one in outstayed} if running else []))

    @rule(number=NUMBERS, ends_backends=st.booleans())
    def rescue(self, number: int, ends_backends: bool) -> None:
        self.world.rescue(self.runner(number), ends_backends=ends_backends)

    @rule(number=NUMBERS, what=st.sampled_from(["beat", "strays", "claim_suspect"]))
    def keep_up(self, number: int, what: str) -> None:
        getattr(self.world, what)(self.runner(number))

    @rule(what=st.sampled_from(["see_beats", "promote", "promote", "step_clock_back", "step_clock_back", "cancel_all"]))
    def meanwhile(self, what: str) -> None:
        getattr(self.world, what)()

    @precondition(lambda self: self.world.enqueued and len(self.world.waiters) < 3)
    @rule(number=NUMBERS)
    def cancel(self, number: int) -> None:
        ids = sorted(self.world.enqueued)
        self.world.cancel(ids[number % len(ids)])

    # ── what must be true ───────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def check(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.drain()


@pytest.fixture
def bench(migrated_database: str) -> Iterator[Bench]:
    bench = Bench(migrated_database, Statements("pgqueue"))
    yield bench
    bench.close()


def machine(bench: Bench) -> type[Lanes]:
    return type("Lanes", (Lanes,), {"bench": bench})


def test_whatever_happens_to_lanes_and_leases_each_task_ends_once_and_by_its_owner(bench: Bench) -> None:
    run_state_machine_as_test(machine(bench), settings=QUICKLY)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_whatever_happens_for_long_each_task_ends_once_and_by_its_owner(bench: Bench) -> None:
    number = random.randrange(2**32)
    print(f"seed {number}")
    run_state_machine_as_test(seed(number)(machine(bench)), settings=THOROUGHLY)


# ── the checker is checked ──────────────────────────────────────────────────────────────────────────────────────────

Script = Callable[[World, Runner, Runner], None]


def lose_and_claim_again(outcome: str, *, keep: bool = True) -> Script:
    def script(world: World, one: Runner, other: Runner) -> None:
        world.claim(one, 1)
        world.rescue(one, ends_backends=False)
        world.claim(one, 1)
        one.runs[0].outcome, one.runs[0].keep = OUTCOMES[outcome], keep
        world.flush(one)

    return script


def lose_to_another(world: World, one: Runner, other: Runner) -> None:
    world.claim(one, 1)
    world.rescue(one, ends_backends=False)
    world.claim(other, 1)
    one.runs[0].outcome = OUTCOMES["succeeded"]
    world.flush(one)


def lock_twice(world: World, one: Runner, other: Runner) -> None:
    world.lock(one, 1, [])
    world.lock(other, 1, [])


def lose_a_lane_and_be_overtaken(world: World, one: Runner, other: Runner) -> None:
    world.lock(one, 1, [])
    world.lose(one, one.lanes[0])
    world.claim(other, 1)
    other.runs[0].outcome = OUTCOMES["retried"]
    world.flush(other)
    world.step_clock_back()
    world.regain(one, one.lost[0])


def rescue_who_has_beaten(world: World, one: Runner, other: Runner) -> None:
    world.beat(one)
    world.see_beats()
    world.claim(one, 1)
    world.beat(one)
    world.rescue(one, ends_backends=False)


def look_for_strays(world: World, one: Runner, other: Runner) -> None:
    world.claim(one, 1)
    world.strays(one)


def crash_beside_another(world: World, one: Runner, other: Runner) -> None:
    world.claim(other, 1)
    world.crash(one, outstayed=[])


def finish_in_a_lane(world: World, one: Runner, other: Runner) -> None:
    world.lock(one, 1, [])
    one.lanes[0].locked[0].outcome = OUTCOMES["succeeded"]
    world.close(one, one.lanes[0])


def cancel_what_runs(world: World, one: Runner, other: Runner) -> None:
    world.claim(one, 1)
    world.cancel(next(iter(world.enqueued)))


CLAIM = "\n        AND claim_id::text = %(claims)s::jsonb ->> id::text"
FLAWS: dict[str, tuple[str, str, str, Script]] = {
    "a settle without its fence": ("settle", " AND runner_id = %(runner_id)s::uuid" + CLAIM, "", lose_to_another),
    "a settle that asks for the runner alone": ("settle", CLAIM, "", lose_and_claim_again("succeeded")),
    "a release without its claim": ("release", "USING (id, claim_id)", "USING (id)", lose_and_claim_again("retried")),
    "a burial without its claim": ("bury", " AND task.claim_id = outcome.claim_id", "", lose_and_claim_again("dead")),
    "a discard without its claim": (
        "discard", " AND task.claim_id = outcome.claim_id", "", lose_and_claim_again("succeeded", keep=False),
    ),
    "a lock that does not lock": ("lock", "FOR UPDATE SKIP LOCKED", "", lock_twice),
    "a regain of what others had": ("regain", "IS NOT DISTINCT FROM (%(claims_before)s", "IS DISTINCT FROM ('{}'", lose_a_lane_and_be_overtaken),
    "a rescue of who has beaten since": ("rescue", "IS NOT DISTINCT FROM %(heartbeat_at)s::timestamptz", "IS NOT NULL", rescue_who_has_beaten),
    "strays that are held": ("strays", "AND claim_id <> ALL(%(claim_ids)s::uuid[])", "", look_for_strays),
    "what others run is handed back": ("hand_back", "task.runner_id = %(runner_id)s::uuid", "true", crash_beside_another),
    "a record without its removal": ("remove", "status = 'ready'", "status = 'running'", finish_in_a_lane),
    "a removal without its record": ("record", "task.status = 'ready'", "task.status = 'running'", finish_in_a_lane),
    "a cancellation of what runs": ("cancel", "'blocked', 'ready')", "'blocked', 'ready', 'running')", cancel_what_runs),
}  # fmt: skip


def take_out(bench: Bench, flaw: str) -> None:
    name, text, instead, _ = FLAWS[flaw]
    statement = getattr(bench.sql, name)
    assert text in statement.text
    setattr(bench.sql, name, replace(statement, text=statement.text.replace(text, instead)))


@pytest.mark.parametrize("flaw", FLAWS)
def test_the_model_notices(flaw: str, bench: Bench) -> None:
    def play() -> None:
        world = World(bench)
        world.enqueue("quick", 100, 0.0)
        FLAWS[flaw][-1](world, *world.runners[:2])
        world.check()
        world.drain()

    play()
    take_out(bench, flaw)
    with pytest.raises(Violation):
        play()


@pytest.mark.parametrize(
    "flaw", ["a lock that does not lock", pytest.param("a settle without its fence", marks=pytest.mark.slow)]
)
def test_chance_finds(flaw: str, bench: Bench) -> None:
    take_out(bench, flaw)
    with pytest.raises(Violation):
        run_state_machine_as_test(machine(bench), settings=UNTIL_FOUND)
