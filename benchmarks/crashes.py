"""Processes that die, and processes that only look dead. The lease is ten seconds, the heartbeat three."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import server
from benchmarks.ground import Ground
from benchmarks.latency import milliseconds, percentile
from benchmarks.programs import Program, check, pause, program, runners
from benchmarks.proxy import Proxy
from benchmarks.tasks import Held, Holding, Stall, Waiting
from benchmarks.wire import Wire
from pgqueue import Queue, Task

LEASE_SECONDS = 10.0
SHORT = ("--lease", "10s", "--heartbeat", "3s")
HELD_COUNT = 40
START_SECONDS_MAX = 30.0
RESTART_SECONDS_MAX = 90.0
OFFENCE_SECONDS = 1.5 * LEASE_SECONDS
"""How long a loop is blocked or the GIL held: well past the lease."""
OUTAGE_SECONDS = 60.0
END_SECONDS_MAX = 120.0
LEFT = "SELECT count(*) FROM pgqueue.task"
CRASHED = """
    SELECT (SELECT count(*) FROM pgqueue.history WHERE crashes > 0) + (SELECT count(*) FROM pgqueue.dead_task)
"""


Kill = Callable[[Wire, list[Program]], set[int]]
Meanwhile = Callable[[Proxy, Wire, list[Program]], None]


# ── deaths ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def child(ground: Ground) -> dict[str, float]:
    """One of two children is killed while its tasks run; the supervisor is there."""

    def kill(wire: Wire, started: list[Program]) -> set[int]:
        victim = _pids(wire)[0]
        os.kill(victim, signal.SIGKILL)
        return {victim}

    return _restarted(ground, kill, processes=2)


def family(ground: Ground) -> dict[str, float]:
    """A runner is killed with everything that belongs to it; another runner is there."""

    def kill(wire: Wire, started: list[Program]) -> set[int]:
        started[0].kill()
        return set(_pids(wire))

    return _restarted(ground, kill, others=1)


def _restarted(ground: Ground, kill: Kill, *, processes: int = 1, others: int = 0) -> dict[str, float]:
    """Seconds from the kill to the second start of each task that the victim ran. All end at once the second time: one that has
    taken a process down may be run alone, and would wait for its neighbours."""
    flags = (*SHORT, "--concurrency", str(HELD_COUNT))
    with ground.empty() as dsn, Wire() as wire, ExitStack() as stack:
        started = stack.enter_context(runners(ground, dsn, *flags, wire=wire, processes=processes))
        wire.hold()
        wire.open()
        with Queue(dsn) as queue:
            queue.enqueue_many([Held() for _ in range(HELD_COUNT)])
        wire.wait(lambda: len(wire.told("started")) >= HELD_COUNT, START_SECONDS_MAX, f"start of {HELD_COUNT} tasks")
        running = {task_id: int(pid) for task_id, _, pid in wire.told("started")}
        rest = [stack.enter_context(program("pgqueue.runner", dsn, *flags, wire=wire)) for _ in range(others)]
        wire.wait_ready(processes + others, lambda: check([*started, *rest]))
        # The others must have seen the victim alive, or its silence cannot begin.
        pause(LEASE_SECONDS / 2, wire, [*started, *rest])
        killed_ns = time.time_ns()
        victims = kill(wire, started)
        wire.let_go()
        lost = {task_id for task_id, pid in running.items() if pid in victims}
        what = f"second start of {len(lost)} tasks"
        wire.wait(lambda: len(_again(wire, killed_ns, lost)) >= len(lost), RESTART_SECONDS_MAX, what)
        waited = [milliseconds(again_ns - killed_ns) for again_ns in _again(wire, killed_ns, lost).values()]
    return {"p99": percentile(waited, 0.99) / 1_000, "count": len(lost)}


def _pids(wire: Wire) -> list[int]:
    """Of the processes that run tasks, by what their tasks said."""
    return sorted({int(pid) for _, _, pid in wire.told("started")})


def _again(wire: Wire, after_ns: int, task_ids: set[str]) -> dict[str, int]:
    """When each of these started after that instant, for the first time."""
    found: dict[str, int] = {}
    for task_id, ns, _ in wire.told("started"):
        if task_id in task_ids and int(ns) > after_ns:
            found.setdefault(task_id, int(ns))
    return found


# ── false alarms ────────────────────────────────────────────────────────────────────────────────────────────────────


def blocked_loop(ground: Ground) -> dict[str, float]:
    """A task blocks its runner's event loop past the lease."""
    return _false_alarms(ground, Stall(seconds=OFFENCE_SECONDS))


def held_gil(ground: Ground) -> dict[str, float]:
    """A task holds its runner's GIL past the lease."""
    return _false_alarms(ground, Holding(seconds=OFFENCE_SECONDS))


def outage(ground: Ground) -> dict[str, float]:
    """The database is out of reach for everybody for a minute, while a task runs on."""

    def cut(proxy: Proxy, wire: Wire, started: list[Program]) -> None:
        proxy.refuse()
        pause(OUTAGE_SECONDS, wire, started)
        proxy.accept()

    return _false_alarms(ground, Waiting(seconds=OUTAGE_SECONDS + LEASE_SECONDS), meanwhile=cut)


def _false_alarms(ground: Ground, task: Task, *, meanwhile: Meanwhile | None = None) -> dict[str, float]:
    """How many attempts were counted as crashes or run twice, though no process died; another runner watches."""
    with ground.empty() as dsn, Proxy(dsn) as proxy, Wire() as wire, ExitStack() as stack:
        wire.open()
        started = stack.enter_context(runners(ground, proxy.dsn, *SHORT, wire=wire))
        with Queue(dsn) as queue:
            queue.enqueue(task)
        wire.wait(lambda: bool(wire.told("started")), START_SECONDS_MAX, "start of the task")
        started = [*started, *stack.enter_context(runners(ground, proxy.dsn, *SHORT, wire=wire))]
        if meanwhile is not None:
            meanwhile(proxy, wire, started)
        deadline = time.monotonic() + END_SECONDS_MAX
        while (left := server.ask(dsn, LEFT)) and time.monotonic() < deadline:
            pause(0.2, wire, started)
        starts = Counter(task_id for task_id, *_ in wire.told("started"))
        count = server.ask(dsn, CRASHED) + sum(number - 1 for number in starts.values())
    # A task that is rescued from each runner in turn never ends: then the count says so.
    if left and not count:
        raise TimeoutError(f"the task did not end within {END_SECONDS_MAX:g} s")
    return {"count": count}
