"""`Task`: what a class may look like, and what an instance knows."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from pydantic import Field

from pgqueue import ConfigurationError, PgQueueError, Queue, Task, registry, set_default_queue, task
from pgqueue.context import Claimed, Context
from pgqueue.registry import type_of
from pgqueue.task import attach


@pytest.mark.parametrize(
    "name", ["run", "context", "tries", "next_try", "enqueue", "json", "copy", "dict", "schema", "validate", "model_dump"]
)
def test_a_field_that_shadows_is_refused_with_the_alias_to_use(name: str):
    with pytest.raises(ConfigurationError, match=rf'\.{name}: .*{name}_: \.\.\. = Field\(alias="{name}"\)'):
        type("Shadowing", (Task,), {"__annotations__": {name: str}, "__module__": __name__, name: "x"})


def test_the_alias_that_the_refusal_names_works():
    @task
    class Report(Task):
        copy_: int = Field(alias="copy")

        async def run(self) -> None: ...

    report = Report(copy=3)
    assert type_of(report).cls.model_validate_json(report.model_dump_json(by_alias=True)) == report
    assert '"copy":3' in report.model_dump_json(by_alias=True)
    assert Report(copy_=3) == report


def test_a_class_variable_is_no_field_and_may_be_called_anything():
    class Counting(Task):
        json: ClassVar[int] = 3
        limit: ClassVar[int] = 5

        async def run(self) -> None: ...

    assert not Counting.model_fields


@pytest.mark.parametrize("name", ["context", "tries", "enqueue"])
def test_a_method_that_hides_what_the_runner_gives_is_refused(name: str):
    with pytest.raises(ConfigurationError, match=f"Hiding.{name} would hide Task.{name}"):
        type("Hiding", (Task,), {"__module__": __name__, name: lambda self: None})


def test_a_class_that_nobody_decorated_is_refused_when_it_is_enqueued(queue: Queue):
    class Plain(Task):
        async def run(self) -> None: ...

    with pytest.raises(ConfigurationError, match=r"Plain is not registered: decorate the class with @task"):
        queue.enqueue(Plain())


def test_a_subclass_of_a_task_needs_its_own_decorator(queue: Queue):
    @task
    class Parent(Task):
        async def run(self) -> None: ...

    class Child(Parent): ...

    with pytest.raises(ConfigurationError, match="Child is not registered"):
        queue.enqueue(Child())
    task(Child)
    assert queue.enqueue(Child()).type == "child"
    assert queue.enqueue(Parent()).type == "parent"


def test_a_task_that_does_not_run_has_no_context_and_no_tries():
    @task
    class Idle(Task):
        async def run(self) -> None: ...

    assert Idle().tries == 0
    with pytest.raises(PgQueueError, match="Idle is not running"):
        _ = Idle().context


def test_tries_counts_the_attempts_before_this_one():
    @task
    class Idle(Task):
        async def run(self) -> None: ...

    idle = Idle()
    attach(idle, _context(attempt=3))
    assert idle.tries == 2
    assert idle.context.attempt == 3


def test_a_running_task_is_still_equal_to_its_payload_and_stored_without_its_context():
    @task
    class Idle(Task):
        n: int = 1

        async def run(self) -> None: ...

    running = Idle()
    attach(running, _context(attempt=1))
    assert running == Idle()
    assert running.model_dump_json() == '{"n":1}'
    assert "context" not in repr(running)


def test_a_frozen_task_can_run():
    @task
    class Fixed(Task, frozen=True):
        n: int = 1

        async def run(self) -> None: ...

    fixed = Fixed()
    attach(fixed, _context(attempt=1))
    assert fixed.tries == 0


def test_the_default_queue_is_used_by_the_shortcut(queue: Queue):
    @task
    class Short(Task):
        async def run(self) -> None: ...

    with pytest.raises(ConfigurationError, match="there is no default queue"):
        Short().enqueue()
    set_default_queue(queue)
    try:
        handle = Short().enqueue(priority=7)
        assert queue.get(handle).priority == 7
    finally:
        set_default_queue(None)


async def test_the_shortcut_is_awaitable_with_an_async_queue(async_queue: Any):
    @task
    class Short(Task):
        async def run(self) -> None: ...

    set_default_queue(async_queue)
    try:
        handle = await Short().enqueue()
        assert await handle.status() == "ready"
    finally:
        set_default_queue(None)


def test_what_is_no_queue_is_refused_as_the_default_queue():
    with pytest.raises(ConfigurationError, match="set_default_queue takes a Queue"):
        set_default_queue("postgresql://localhost")


def test_postponed_annotations_are_read_inside_a_function():
    """This module's are strings: `from __future__ import annotations` stands at its top."""

    @task
    class Postponed(Task[int]):
        values: list[int]

        async def run(self) -> int:
            return sum(self.values)

    assert Postponed(values=[1, 2]).values == [1, 2]
    assert registry.get("postponed").result_adapter is not None


def _context(*, attempt: int) -> Context:
    return Context(Claimed("default", "", "", "idle", attempt, 100, 0, 0, "{}", None, False), None)
