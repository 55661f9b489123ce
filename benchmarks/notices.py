"""NOTIFY takes a lock of the whole server at commit: how many are sent while nobody sleeps?"""

from __future__ import annotations

import threading

import psycopg

from benchmarks import filling, server
from benchmarks.ground import Ground
from benchmarks.programs import runners
from benchmarks.tasks import Noop
from benchmarks.wire import Wire
from pgqueue import Queue

CHANNEL_LISTEN = "LISTEN pgqueue"
READY = "SELECT count(*) FROM (SELECT FROM pgqueue.task WHERE status = 'ready' LIMIT 100000) AS ready"


def measure(ground: Ground) -> dict[str, float]:
    """A runner drains, and a tenth as many tasks are enqueued one by one. Whenever the backlog has halved it is filled up again,
    so that the runner is never idle before the last is enqueued."""
    count = ground.sizes.tasks
    with (
        ground.filled(count) as dsn,
        psycopg.connect(dsn, autocommit=True) as listener,
        Wire() as wire,
        runners(ground, dsn, wire=wire) as started,
    ):
        listener.execute(CHANNEL_LISTEN)
        enqueuer = threading.Thread(target=_enqueue, args=(dsn, count // 10), daemon=True)
        wire.open()
        enqueuer.start()
        noticed = 0
        while enqueuer.is_alive():
            for one in started:
                one.check()
            if server.ask(dsn, READY) < min(100_000, count) // 2:
                filling.fill(dsn, count // 2)
            noticed += sum(1 for _ in listener.notifies(timeout=0.05))
        noticed += sum(1 for _ in listener.notifies(timeout=0.5))
    return {"count": noticed}


def _enqueue(dsn: str, count: int) -> None:
    with Queue(dsn) as queue:
        for number in range(count):
            queue.enqueue(Noop(number=number))
