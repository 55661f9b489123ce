"""`queue.types`: what operators see and set of task types, without a deploy. The same methods in both clients."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING

from typing_extensions import Unpack

from pgqueue import type_operations
from pgqueue.overrides import TypeOptions, check_option_names, check_type_options
from pgqueue.records import TypeRecord
from pgqueue.requests import check_name

if TYPE_CHECKING:
    from pgqueue.client import AsyncQueue, Queue


class Types:
    """The task types that runners have registered. Names match ignoring case, `-` and `_`."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def list(self) -> builtins.list[TypeRecord]:
        """All of them, by name."""
        return self._queue._run(lambda: type_operations.list_types(self._queue._sql))

    def get(self, name: str) -> TypeRecord:
        """One type: its options in the code, what is set over them, what applies. Raises UnknownTask."""
        checked = check_name(name, "name")
        return self._queue._run(lambda: type_operations.get_type(self._queue._sql, checked))

    def update(self, name: str, **options: Unpack[TypeOptions]) -> TypeRecord:
        """Set options over those of the code; what is left out stays as it is. Deploys and restarts leave them alone.

        priority: for tasks enqueued from now on. retry (a Retry without `on` and `unless`; the type's own stay in force), timeout
        (None: without): for attempts that start from now on, in every runner within a few seconds. max_concurrency, rate_limit
        (None: without) are kept. What one enqueue says of its own task wins over all of this.
        Returns how the type is set now. Raises ConfigurationError, UnknownTask.
        """
        checked, overrides = check_name(name, "name"), check_type_options(options)
        return self._queue._run(lambda: type_operations.update_type(self._queue._sql, checked, overrides))

    def reset(self, name: str, *options: str) -> TypeRecord:
        """Go back to the code's options: these, or all where none is named. Raises ConfigurationError, UnknownTask."""
        checked, removed = check_name(name, "name"), check_option_names(options, "types.reset")
        return self._queue._run(lambda: type_operations.reset_type(self._queue._sql, checked, removed))

    def disable(self, name: str) -> TypeRecord:
        """Have no task of this type started any more, by any runner, within a few seconds. What runs goes on.

        Tasks wait, and new ones are accepted and wait; none loses an attempt. Raises UnknownTask.
        """
        checked = check_name(name, "name")
        return self._queue._run(lambda: type_operations.switch_type(self._queue._sql, checked, disables=True))

    def enable(self, name: str) -> TypeRecord:
        """Have the tasks of a disabled type run again; what waited is ready within a few seconds. Raises UnknownTask."""
        checked = check_name(name, "name")
        return self._queue._run(lambda: type_operations.switch_type(self._queue._sql, checked, disables=False))


class AsyncTypes:
    """The same for asyncio."""

    def __init__(self, queue: AsyncQueue) -> None:
        self._queue = queue

    async def list(self) -> builtins.list[TypeRecord]:
        """All of them, by name."""
        return await self._queue._run(lambda: type_operations.list_types(self._queue._sql))

    async def get(self, name: str) -> TypeRecord:
        """One type, as Types.get gives it."""
        checked = check_name(name, "name")
        return await self._queue._run(lambda: type_operations.get_type(self._queue._sql, checked))

    async def update(self, name: str, **options: Unpack[TypeOptions]) -> TypeRecord:
        """Set options over those of the code, as Types.update does."""
        checked, overrides = check_name(name, "name"), check_type_options(options)
        return await self._queue._run(lambda: type_operations.update_type(self._queue._sql, checked, overrides))

    async def reset(self, name: str, *options: str) -> TypeRecord:
        """Go back to the code's options, as Types.reset does."""
        checked, removed = check_name(name, "name"), check_option_names(options, "types.reset")
        return await self._queue._run(lambda: type_operations.reset_type(self._queue._sql, checked, removed))

    async def disable(self, name: str) -> TypeRecord:
        """Have no task of this type started any more, as Types.disable does."""
        checked = check_name(name, "name")
        return await self._queue._run(lambda: type_operations.switch_type(self._queue._sql, checked, disables=True))

    async def enable(self, name: str) -> TypeRecord:
        """Have the tasks of a disabled type run again, as Types.enable does."""
        checked = check_name(name, "name")
        return await self._queue._run(lambda: type_operations.switch_type(self._queue._sql, checked, disables=False))
