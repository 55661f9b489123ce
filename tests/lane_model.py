"""The model behind test_lane_model.py: simulated runners over the real SQL, one statement at a time, and what must be true of it.

A runner here has lanes (connections with a transaction that is open) and leased attempts, but no loop and no time of its own: the
test decides what happens next. What is sent, and in which order, comes from lane.py and completer.py. The model keeps who owns a
row by right and how each task has ended; `check` compares that with the tables.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import psycopg

from pgqueue.completer import Settlement, _bury, _each_task_once, _fence, _grouped, claims_object, outcome_entry
from pgqueue.context import Claimed
from pgqueue.database import Parameters, is_refused_value
from pgqueue.lane import BEGIN, Closing, Lane, Opened
from pgqueue.outcomes import Failure, Outcome, Verdict
from pgqueue.statements import Call, Statement
from pgqueue.watermark import QueueWatermarks
from tests.lane_bench import QUEUE, Bench, BenchLink, Block, Held, Owner, Recorder, Run, Runner, Violation, Waiter, demand

TYPES = ["quick", "slow"]
MAX_CRASHES = 2
DRAIN_ROUNDS_MAX = 60
FAILURE = Failure("ValueError", "failed", None)
OUTCOMES = {
    "succeeded": Outcome(Verdict.SUCCEEDED),
    "with result": Outcome(Verdict.SUCCEEDED, result='{"a":1}'),
    "refused": Outcome(Verdict.SUCCEEDED, result='"\\u0000"'),
    "ignored": Outcome(Verdict.IGNORED, reason="not needed"),
    "retried": Outcome(Verdict.RETRIED, failure=FAILURE),
    "retried later": Outcome(Verdict.RETRIED, delay_seconds=3600.0, failure=FAILURE),
    "snoozed": Outcome(Verdict.SNOOZED),
    "returned": Outcome(Verdict.RETURNED),
    "dead": Outcome(Verdict.DEAD, reason="failed", failure=FAILURE),
}
ENDS = {Verdict.SUCCEEDED: "succeeded", Verdict.IGNORED: "ignored", Verdict.DEAD: "dead"}
LOOK = """
SELECT id::text, 'task', status::text, claim_id::text, attempt, cancel_requested_at IS NOT NULL FROM pgqueue.task
UNION ALL SELECT id::text, 'history', status::text, claim_id::text, attempt, false FROM pgqueue.history
UNION ALL SELECT id::text, 'dead_task', 'dead', claim_id::text, attempt, false FROM pgqueue.dead_task
UNION ALL SELECT task_id::text, 'effect', '', claim_id::text, 0, false FROM effect
"""


class World:
    """All runners, and the truth about the tasks."""

    def __init__(self, bench: Bench, runner_count: int = 3) -> None:
        self.bench = bench
        self.sql = bench.sql
        self.runners = [Runner() for _ in range(runner_count)]
        self.enqueued: set[str] = set()
        self.owners: dict[str, Owner] = {}
        self.ended: dict[str, tuple[str, str | None]] = {}
        """How a task ended, and by which claim; None: nobody's."""
        self.discarded: set[str] = set()
        self.leases: Counter[str] = Counter()
        """How often each task was owned by a lease."""
        self.settled_attempts: dict[str, int] = {}
        self.effects: set[tuple[str, str]] = set()
        self.seen: dict[str, Any] = {}
        """Beats as a watcher saw them."""
        self.waiters: list[Waiter] = []
        bench.clean()

    def rows(self, call: Call) -> list[Any]:
        return self.bench.admin.execute(call.statement.text, Parameters(call.parameters)).fetchall()

    def _lane(self, runner: Runner) -> Lane:
        limits = {"idle_in_transaction_session_timeout": "60000"}
        return Lane(
            self.sql,
            BenchLink(self.rows),  # type: ignore[arg-type]
            runner_id=uuid.UUID(runner.id),
            types=TYPES,
            watermarks=QueueWatermarks(),
            limits=lambda connection: limits,
        )

    # ── what the truth is ───────────────────────────────────────────────────────────────────────────────────────────

    def _own(self, runner: Runner, claim: str, id: str, attempt: int, *, is_leased: bool) -> None:
        demand(id not in self.owners, f"{id} was taken by {claim} while {self.owners.get(id)} owned it")
        demand(id not in self.ended, f"{id} was taken after it had ended")
        demand(attempt > self.settled_attempts.get(id, 0), f"attempt {attempt} of {id} was settled before")
        self._lease(runner, claim, [id]) if is_leased else self.owners.update({id: Owner(claim, runner.id, False)})

    def _lease(self, runner: Runner, claim: str, ids: Iterable[str]) -> None:
        for id in ids:
            self.owners[id] = Owner(claim, runner.id, True)
            self.leases[id] += 1

    def _end(self, id: str, status: str, claim: str | None, *, keep: bool = True) -> None:
        demand(id not in self.ended and id not in self.discarded, f"{id} ended twice")
        self.owners.pop(id, None)
        if keep:
            self.ended[id] = (status, claim)
        else:
            self.discarded.add(id)

    def owns(self, run: Run) -> bool:
        owner = self.owners.get(run.id)
        return owner is not None and owner.claim == run.claim

    # ── by lock ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def lock(self, runner: Runner, limit: int, leased_types: Sequence[str]) -> None:
        """A lane's BEGIN and lock. A lane that found nothing ends at once."""
        connection = self.bench.lend(f"lane {runner.id}")
        claim, lane, recorder = str(uuid.uuid4()), self._lane(runner), Recorder()
        recorder.add(BEGIN)
        lane._bound(recorder)  # type: ignore[arg-type]
        lane._lock(recorder, claim, QUEUE, limit, leased_types)  # type: ignore[arg-type, func-returns-value]
        try:
            for text, parameters in recorder.calls:
                cursor = connection.execute(text, parameters)
        except psycopg.errors.LockNotAvailable as error:
            raise Violation("a lane had to wait for a row") from error
        held = Held(connection, Opened(QUEUE, claim), [], [], {})
        for row in cursor.fetchall():
            run = Run(Claimed(QUEUE, claim, *row[:10]))
            self._own(runner, claim, run.id, run.claimed.attempt, is_leased=False)
            (held.leased if row[10] else held.locked).append(run)
            held.leases_before[run.id] = self.leases[run.id]
            if row[11] is not None:
                held.opened.claims_before[run.id] = row[11]
        if held.runs:
            runner.lanes.append(held)
        else:
            connection.execute("COMMIT")
            self.bench.give_back(connection)

    def close(self, runner: Runner, held: Held, *, killed_at: int | None = None, reply_is_lost: bool = False) -> None:
        """A lane's turn: write down what has ended, lease the rest, COMMIT. `killed_at`: before which of its statements its
        connection dies; the one after the last is COMMIT's answer."""
        assert held.connection is not None
        held.closing = closing = self._closing(held)
        calls = self._turn(runner, held, closing)
        try:
            for number, (text, parameters) in enumerate(calls):
                if number == killed_at:
                    self.lose(runner, held)
                    return
                held.connection.execute(text, parameters)
        except psycopg.Error as error:
            demand(is_refused_value(error), f"a lane's turn failed: {error}")
            closing.give_up_recording()
            held.connection.execute("ROLLBACK TO SAVEPOINT settle")
            for text, parameters in self._turn(runner, held, closing):
                held.connection.execute(text, parameters)
        self._committed(runner, held, closing)
        if reply_is_lost:
            self.bench.kill(held.connection)
            runner.lanes.remove(held)
            runner.lost.append(held)
            return
        runner.lanes.remove(held)
        self.bench.give_back(held.connection)
        done = {settlement.claimed.id for settlement in closing.recorded + closing.discarded + closing.returned}
        runner.runs += [run for run in held.runs if run.id not in done]

    def _closing(self, held: Held) -> Closing:
        batch: Any = SimpleNamespace(finished=[run.settlement for run in held.locked if run.outcome is not None])
        return Closing.of(batch, [run.claimed for run in held.locked if run.outcome is None])

    def _turn(self, runner: Runner, held: Held, closing: Closing) -> list[tuple[str, dict[str, Any]]]:
        lane, recorder = self._lane(runner), Recorder()
        lane._settle(recorder, held.opened, closing)  # type: ignore[arg-type]
        lane._lease(recorder, held.opened, closing)  # type: ignore[arg-type]
        recorder.add("COMMIT")
        return recorder.calls

    def _committed(self, runner: Runner, held: Held, closing: Closing) -> None:
        claim = held.opened.claim_id
        for run in held.runs:
            demand(self.owns(run), f"a lane wrote down {run.id}, which {self.owners.get(run.id)} owns")
        for settlement in closing.recorded + closing.discarded:
            self._end(settlement.claimed.id, ENDS[settlement.outcome.verdict], claim, keep=settlement.keep)
        for settlement in closing.returned:
            del self.owners[settlement.claimed.id]
        leased = [settlement.claimed for settlement in closing.leased] + closing.running
        self._lease(runner, claim, [claimed.id for claimed in leased] + [run.id for run in held.leased])

    def lose(self, runner: Runner, held: Held) -> None:
        """The lane's connection dies with its transaction, and its locks with it; its tasks run on."""
        assert held.connection is not None
        held.closing = self._closing(held)
        self.bench.kill(held.connection)
        for run in held.runs:
            if self.owns(run):
                del self.owners[run.id]
        runner.lanes.remove(held)
        runner.lost.append(held)

    def regain(self, runner: Runner, held: Held) -> None:
        """What claiming.py does after LaneLost. What has ended meanwhile is leased too, and left to a flush."""
        runner.lost.remove(held)
        claims = [run.claimed for run in held.locked if run.outcome is None or run.outcome.verdict is not Verdict.RETURNED]
        claims += [run.claimed for run in held.leased]
        if not claims:
            return
        owned, ended = self.bench.loop.run_until_complete(self._lane(runner).regain(held.opened, claims))
        for run in held.runs:
            owner, is_ours = self.owners.get(run.id), self.owns(run)
            if run.id in owned and not is_ours:
                is_untouched = self.leases[run.id] == held.leases_before[run.id]
                demand(owner is None and is_untouched, f"{run.id} was regained after others had owned it (now {owner})")
                self._own(runner, run.claim, run.id, run.claimed.attempt, is_leased=True)
            demand(run.id in owned or not is_ours, f"{run.id} was given up by {run.claim}, which owns it")
            has_ended = self.ended.get(run.id, ("", None))[1] == run.claim
            demand((run.id in ended) is has_ended, f"of {run.id} it was said that its settle is {run.id in ended}")
        held_on = {claimed.id for claimed in claims} - ended
        runner.runs += [run for run in held.locked if run.id in held_on]
        runner.runs += [run for run in held.leased if run.id in owned]

    # ── by lease ────────────────────────────────────────────────────────────────────────────────────────────────────

    def claim(self, runner: Runner, limit: int, *, reply_is_lost: bool = False) -> None:
        claim, lane = str(uuid.uuid4()), self._lane(runner)
        parameters = lane._parameters(QUEUE, claim, limit, lane._watermarks[QUEUE].segments())
        rows = self.rows(self.sql.claim(**parameters))
        self._took(runner, [Claimed(QUEUE, claim, *row) for row in rows], reply_is_lost=reply_is_lost)

    def claim_suspect(self, runner: Runner) -> None:
        claim = str(uuid.uuid4())
        rows = self.rows(self.sql.claim_suspect(queues=None, types=TYPES, runner_id=runner.id, claim_id=claim))
        self._took(runner, [Claimed(queue, claim, *row) for queue, *row in rows])

    def _took(self, runner: Runner, taken: list[Claimed], *, reply_is_lost: bool = False) -> None:
        for claimed in taken:
            self._own(runner, claimed.claim_id, claimed.id, claimed.attempt, is_leased=True)
        if not reply_is_lost:
            runner.runs += [Run(claimed) for claimed in taken]

    def flush(self, runner: Runner, *, reply_is_lost: bool = False) -> None:
        """What the completer does with all that has ended, stale claims included."""
        done = [run for run in runner.runs if run.outcome is not None]
        for (_, statement, arrange), part in _grouped(self.sql, [run.settlement for run in done]).items():
            part.sort(key=lambda settlement: settlement.claimed.id)
            handled: list[Settlement] = []
            for once in _each_task_once(part):
                handled += self._settle(runner, statement, arrange, once, reply_is_lost=reply_is_lost)
            runner.runs = [run for run in runner.runs if not (run in done and run.settlement in handled)]

    def _settle(
        self, runner: Runner, statement: Statement, arrange: Any, part: list[Settlement], *, reply_is_lost: bool
    ) -> list[Settlement]:
        call = statement(**{**arrange(part), "queue": QUEUE, "runner_id": runner.id})
        asked = {row[0] for row in self._look() if row[5]}
        try:
            settled = {row[0] for row in self.rows(call)}
        except psycopg.errors.LockNotAvailable:
            return []  # somebody's block is open on a row of it: later
        except psycopg.Error as error:
            demand(is_refused_value(error), f"a settle failed: {error}")
            if len(part) == 1:
                dead = part[0]._replace(outcome=OUTCOMES["dead"])
                return part if self._settle(runner, self.sql.bury, _bury, [dead], reply_is_lost=False) else []
            return [one for s in part for one in self._settle(runner, statement, arrange, [s], reply_is_lost=reply_is_lost)]
        for settlement in part:
            self._settled(settlement, was_settled=settlement.claimed.id in settled, was_asked=settlement.claimed.id in asked)
        if reply_is_lost:
            self._repeat(call, part, settled)
        return part

    def _settled(self, settlement: Settlement, *, was_settled: bool, was_asked: bool) -> None:
        claimed, verdict = settlement.claimed, settlement.outcome.verdict
        owner = self.owners.get(claimed.id)
        is_owner = owner is not None and owner.is_leased and owner.claim == claimed.claim_id
        demand(was_settled is is_owner, f"claim {claimed.claim_id} of {claimed.id} settled: {was_settled}; its owner is {owner}")
        if not was_settled:
            return
        if verdict in ENDS:
            self._end(claimed.id, ENDS[verdict], claimed.claim_id, keep=settlement.keep or verdict is Verdict.DEAD)
        elif was_asked:
            self._end(claimed.id, "cancelled", claimed.claim_id)
        else:
            del self.owners[claimed.id]
        if verdict is Verdict.RETRIED:
            self.settled_attempts[claimed.id] = claimed.attempt

    def _repeat(self, call: Call, part: list[Settlement], settled: set[str]) -> None:
        """A settle of which nobody knows whether it committed is repeated: it finds nothing, and the look-up all."""
        demand(not self.rows(call), "a settle that was repeated settled again")
        found = {row[0] for row in self.rows(self.sql.settled_claims(queue=QUEUE, **_fence(part)))}
        kept = {s.claimed.id for s in part if s.keep or s.outcome.verdict not in (Verdict.SUCCEEDED, Verdict.IGNORED)}
        demand(found == settled & kept, f"the look-up after an uncertain settle found {found}, not {settled & kept}")

    def open_block(self, runner: Runner, run: Run) -> None:
        """`context.transaction()`: the task's own write, then the settle, as the last statement before COMMIT."""
        connection = self.bench.lend("block")
        connection.execute("BEGIN")
        connection.execute("SET LOCAL lock_timeout = '50ms'")
        connection.execute("INSERT INTO effect VALUES (%s, %s)", (run.id, run.claim))
        outcomes = "{" + outcome_entry(run.id, OUTCOMES["with result"]) + "}"
        call = self.sql.settle(
            queue=QUEUE, runner_id=runner.id, ids=[run.id], claims=claims_object([run.claimed]), outcomes=outcomes
        )
        settled = connection.execute(call.statement.text, Parameters(call.parameters)).fetchall()
        demand(bool(settled) is self.owns(run), f"a block settled {settled}; {run.id} is owned by {self.owners.get(run.id)}")
        if settled:
            runner.runs.remove(run)
            runner.blocks.append(Block(connection, run))
        else:
            connection.execute("ROLLBACK")
            self.bench.give_back(connection)
            run.outcome = OUTCOMES["retried"]  # LeaseLost

    def end_block(self, runner: Runner, block: Block, *, how: str) -> None:
        runner.blocks.remove(block)
        if how == "COMMIT":
            block.connection.execute("COMMIT")
            demand(self.owns(block.run), f"a block committed for {block.run.id}, owned by {self.owners.get(block.run.id)}")
            self._end(block.run.id, "succeeded", block.run.claim)
            self.effects.add((block.run.id, block.run.claim))
            self.bench.give_back(block.connection)
            return
        if how == "ROLLBACK":
            block.connection.execute("ROLLBACK")
            self.bench.give_back(block.connection)
        else:
            self.bench.kill(block.connection)
        block.run.outcome = OUTCOMES["retried"]
        runner.runs.append(block.run)

    # ── giving back ─────────────────────────────────────────────────────────────────────────────────────────────────

    def beat(self, runner: Runner) -> None:
        identity = {"id": runner.id, "name": "model", "kind": "runner", "host": "here", "pid": 1, "version": "1"}
        self.rows(self.sql.beat(**identity, concurrency=1, running_count=0))

    def see_beats(self) -> None:
        self.seen = {str(row[0]): row[1] for row in self.rows(self.sql.beats())}

    def rescue(self, runner: Runner, *, ends_backends: bool) -> None:
        """Somebody takes this runner for dead, by the beat that was seen; it lives on, and knows nothing of it."""
        if ends_backends:
            self.rows(self.sql.end_backends(runner_id=runner.id))
            for held in list(runner.lanes):
                self.lose(runner, held)
        actual = self.bench.admin.execute("SELECT heartbeat_at FROM pgqueue.runner WHERE id = %s", (runner.id,)).fetchone()
        seen = self.seen.get(runner.id)
        rows = self.rows(self.sql.rescue(runner_id=runner.id, heartbeat_at=seen, max_crashes=MAX_CRASHES, limit=100))
        demand(not rows or (actual or (None,))[0] == seen, "a runner was rescued that has beaten since")
        self._given_back(runner, rows)

    def _given_back(self, runner: Runner, rows: Iterable[tuple[str, str]]) -> None:
        for id, status in rows:
            owner = self.owners.pop(id, None)
            demand(owner is not None and owner.is_leased and owner.runner == runner.id, f"{id} was taken from {owner}")
            if status == "dead":
                assert owner is not None
                self._end(id, "dead", owner.claim)

    def crash(self, runner: Runner, *, outstayed: Sequence[Run]) -> None:
        """A child dies; its supervisor hands back, counts the crash, and a successor takes over what outstayed its timeout."""
        lanes, started = list(runner.lanes), runner.in_hand()
        for block in list(runner.blocks):
            self.bench.kill(block.connection)
        for held in lanes:
            self.lose(runner, held)
        spared = [run.id for run in outstayed]
        rows = self.rows(
            self.sql.hand_back(
                runner_id=runner.id, started_ids=list(started), spared_ids=spared, max_crashes=MAX_CRASHES, limit=100
            )
        )
        self._given_back(runner, rows)
        unmarked = sorted(started - {id for id, _ in rows})
        self.rows(self.sql.mark_crashed(runner_id=runner.id, queues=[QUEUE] * len(unmarked), ids=unmarked))
        left = {id for id, owner in self.owners.items() if owner.runner == runner.id}
        demand(left <= set(spared), f"{left} were not handed back")
        heir = self.runners[self.runners.index(runner)] = Runner()
        self._take_over(runner, heir, spared)

    def _take_over(self, fallen: Runner, heir: Runner, ids: list[str]) -> None:
        claim, queues = str(uuid.uuid4()), [QUEUE] * len(ids)
        rows = self.rows(self.sql.take_over(old_runner_id=fallen.id, runner_id=heir.id, claim_id=claim, queues=queues, ids=ids))
        for queue, *columns in rows:
            run = Run(Claimed(queue, claim, *columns), OUTCOMES["retried"])
            owner = self.owners.get(run.id)
            if owner is not None and owner.runner == fallen.id:
                del self.owners[run.id]
            self._own(heir, claim, run.id, run.claimed.attempt, is_leased=True)
            heir.runs.append(run)
        left = {id for id, owner in self.owners.items() if owner.runner == fallen.id}
        demand(not left, f"{left} were neither handed back nor taken over")

    def strays(self, runner: Runner) -> None:
        """The runner gives back what it does not know of: all of that, and nothing else."""
        claims = runner.claims()
        rows = self.rows(self.sql.strays(runner_id=runner.id, claim_ids=list(claims), deadline=0.0))
        for _, id in rows:
            owner = self.owners.pop(id, None)
            demand(owner is not None and owner.runner == runner.id, f"{id} was given back, which {owner} owns")
            assert owner is not None
            demand(owner.claim not in claims, f"{id} was given back while its claim is held")
        known = runner.in_hand()
        left = {id for id, owner in self.owners.items() if owner.runner == runner.id and owner.is_leased and id not in known}
        demand(not left, f"{left} run under {runner.id}, which knows nothing of them")

    # ── from outside ────────────────────────────────────────────────────────────────────────────────────────────────

    def enqueue(self, type: str, priority: int, delay: float) -> None:
        id = uuid.UUID(int=len(self.enqueued) + 1)  # a run must be repeatable
        call = self.sql.enqueue(id=id, queue=QUEUE, type=type, priority=priority, payload=json.dumps({}), delay=delay)
        self.rows(call)
        self.enqueued.add(str(id))

    def promote(self) -> None:
        self.rows(self.sql.promote(queue=QUEUE, types=TYPES, limit=100, now="2200-01-01 00:00+00"))

    def cancel(self, task_id: str) -> None:
        """It may have to wait for a lane, or for a block: it goes on by itself when that ends."""
        self.waiters.append(Waiter(self.bench, task_id))

    def answer_waiters(self) -> None:
        for waiter in list(self.waiters):
            answer = waiter.answer(self.bench.admin)
            if answer is None:
                continue
            self.waiters.remove(waiter)
            self.bench.give_back(waiter.connection)
            if answer == ["cancelled"]:
                owner = self.owners.get(waiter.task_id)
                demand(owner is None, f"{waiter.task_id} was cancelled as a waiting one under {owner}")
                self._end(waiter.task_id, "cancelled", None)

    def cancel_all(self) -> None:
        """Everything that waits and is not locked."""
        statuses = ["scheduled", "blocked", "ready"]
        before = {row[0] for row in self._look() if row[1] == "task"}
        self.rows(
            self.sql.cancel_all(
                queue=QUEUE,
                after=uuid.UUID(int=0),
                limit=100,
                statuses=statuses,
                created_before="2200-01-01 00:00+00",
                reason="all",
            )
        )
        for id in before - {row[0] for row in self._look() if row[1] == "task"}:
            demand(id not in self.owners, f"{id} was cancelled under {self.owners.get(id)}")
            self._end(id, "cancelled", None)

    def step_clock_back(self) -> None:
        """What was written last was written by a server whose clock is behind, as after a failover."""
        self.bench.admin.execute(
            "UPDATE pgqueue.task SET updated_at = updated_at - interval '1 day' WHERE (queue, id) IN"
            " (SELECT queue, id FROM pgqueue.task FOR UPDATE SKIP LOCKED)"
        )

    # ── what must be true ───────────────────────────────────────────────────────────────────────────────────────────

    def _look(self) -> list[Any]:
        return self.bench.admin.execute(LOOK).fetchall()

    def check(self) -> None:
        """Every task in one place, running rows owned by whom they name, ends as they were written down, an effect a success."""
        self.answer_waiters()
        rows = self._look()
        places = Counter(row[0] for row in rows if row[1] != "effect")
        expected = Counter(self.enqueued - self.discarded)
        demand(places == expected, f"tasks lost or doubled: {places - expected} too many, {expected - places} too few")
        running = {row[0]: row[3] for row in rows if row[1] == "task" and row[2] == "running"}
        leased = {id: owner.claim for id, owner in self.owners.items() if owner.is_leased}
        demand(running == leased, f"running: {running}; leased by right: {leased}")
        ended = {row[0]: (row[2], row[3]) for row in rows if row[1] in ("history", "dead_task")}
        demand(ended.keys() == self.ended.keys(), f"ended: {ended}; by right: {self.ended}")
        for id, (status, claim) in self.ended.items():
            demand(ended[id][0] == status and claim in (None, ended[id][1]), f"{id} is {ended[id]}, not {(status, claim)}")
        for id, place, _, _, attempt, _ in rows:
            demand(place == "effect" or attempt >= self.settled_attempts.get(id, 0), f"{id} fell back to attempt {attempt}")
        effects = [(row[0], row[3]) for row in rows if row[1] == "effect"]
        demand(sorted(effects) == sorted(self.effects), f"effects: {effects}; by right: {self.effects}")

    def drain(self) -> None:
        """Let everything come to its end: then nothing is left over, running or locked."""
        for _ in range(DRAIN_ROUNDS_MAX):
            for runner in self.runners:
                self._drain(runner)
            self.check()
            self.promote()
            self.claim_suspect(self.runners[0])
            self.claim(self.runners[0], 100)
            if not self.owners and self.enqueued - self.discarded == self.ended.keys():
                break
        rows = self._look()
        demand(not [row for row in rows if row[1] == "task"], f"left over: {rows}")
        demand(not self.owners and not self.waiters, f"still owned: {self.owners}")

    def _drain(self, runner: Runner) -> None:
        for block in list(runner.blocks):
            self.end_block(runner, block, how="COMMIT")
        for held in list(runner.lanes):
            self.close(runner, held)
        for held in list(runner.lost):
            self.regain(runner, held)
        for run in runner.runs:
            run.outcome = run.outcome or OUTCOMES["succeeded"]
        self.flush(runner)
        self.strays(runner)
