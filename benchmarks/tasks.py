"""The tasks that are drained."""

from __future__ import annotations

from pgqueue import Task, task


@task
class Noop(Task):
    """Nothing, as fast as it goes."""

    number: int = 0

    async def run(self) -> None:
        return None
