"""What a child process takes over from one that was killed: the tasks that outstayed their timeout. Their attempt has failed, and
whether there will be another is a question to user code, which a supervisor does not load."""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from datetime import timedelta

from pgqueue import payload
from pgqueue.completer import Settlement
from pgqueue.context import Claimed, Context, Services
from pgqueue.executor import conclude, time_limit, undecodable
from pgqueue.link import Link
from pgqueue.reactions import Reactions, Told
from pgqueue.registry import Registry, running_context
from pgqueue.statements import Statements
from pgqueue.task import attach
from pgqueue.upkeep import Supervision

logger = logging.getLogger("pgqueue.runner")


async def take_over(link: Link, sql: Statements, supervision: Supervision, *, runner_id: uuid.UUID) -> list[Claimed]:
    """Lease the tasks over which the predecessor was killed. Commits. Raises what psycopg raises.

    One that is not free, or has gone its way, is left out: its runner is gone, so it will be rescued as any other.
    """
    if not supervision.outstayed:
        return []
    claim_id = str(uuid.uuid4())
    rows = await link.insist(
        sql.take_over(
            old_runner_id=supervision.predecessor_id,
            runner_id=runner_id,
            claim_id=claim_id,
            queues=[queue for queue, _ in supervision.outstayed],
            ids=[id for _, id in supervision.outstayed],
        )
    )
    return [Claimed(queue, claim_id, *columns) for queue, *columns in rows]


async def settle_outstayed(
    claimed: Claimed, registry: Registry, services: Services, undecodable_delay: timedelta, reactions: Reactions
) -> Settlement:
    """The attempt as failed with TimeoutError; its retry policy, or its `next_try`, decides what follows. Its hooks are told."""
    # A task of its own has a context of its own.
    return await asyncio.create_task(_settle(claimed, registry, services, undecodable_delay, reactions))


async def _settle(
    claimed: Claimed, registry: Registry, services: Services, undecodable_delay: timedelta, reactions: Reactions
) -> Settlement:
    context = Context(claimed, services)
    try:
        task_type = registry.get(claimed.type)
        task = payload.decode(task_type, claimed.payload)
    except BaseException as mistake:  # validators are user code: they may raise anything
        outcome = undecodable(claimed, mistake, undecodable_delay.total_seconds())
        context.error = mistake
        if (known := registry.find(claimed.type)) is not None:
            await reactions.refused(known, context, outcome)
        return Settlement(claimed, outcome, True)
    attach(task, context)
    running_context.set(context)
    limit = time_limit(task_type, claimed)
    error = TimeoutError(f"it did not end within its timeout of {limit or 0:g} s, nor later: its process was killed")
    outcome = conclude(task_type, task, context, error, random=random.Random())
    await reactions.end(Told(task, outcome, None))
    return Settlement(claimed, outcome, task_type.history)
