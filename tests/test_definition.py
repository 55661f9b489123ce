"""`@task`: every wrong option is an error at decoration, which names the class and the option."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, Generic, TypeVar

import pytest
from pydantic import BaseModel, Field, SecretStr
from typing_extensions import TypedDict

from pgqueue import ConfigurationError, Retry, Task, Unique, registry, task
from pgqueue.definition import fold, kebab

T = TypeVar("T")


class Queues(StrEnum):
    MAIL = "mail"


class Receipt(BaseModel):
    number: int


class Bill(TypedDict):
    total: int


@dataclasses.dataclass
class Point:
    x: int


class Counting(Task):
    """Count to ten.

    And then
    back again.
    """

    user_id: int = 1

    async def run(self) -> None: ...


class Deciding(Counting):
    def next_try(self) -> timedelta | None:
        return None


class Needing(Task):
    url: str

    async def run(self) -> None: ...


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prioirty": 1}, "has no option 'prioirty'"),
        ({"name": ""}, "name takes a name of 1 to 200"),
        ({"name": "x" * 10_000}, "one of 10000 characters"),
        ({"name": "a\0b"}, "control character"),
        ({"name": "\ud800"}, "surrogate"),
        ({"name": "-_-"}, "nothing but - and _"),
        ({"name": 5}, "name takes a name"),
        ({"title": 5}, "title takes a text"),
        ({"description": "a\0b"}, "description holds a NUL"),
        ({"queue": ""}, "queue takes a name"),
        ({"queue": None}, "queue takes a name"),
        ({"priority": 32_768}, "priority takes a whole number from -32767 to 32767"),
        ({"priority": -32_768}, "priority takes a whole number"),
        ({"priority": True}, "priority takes"),
        ({"priority": 1.0}, "priority takes"),
        ({"priority": "high"}, "priority takes"),
        ({"frequency": 0}, "frequency"),
        ({"frequency": timedelta(seconds=-1)}, "negative"),
        ({"frequency": "soon"}, "soon"),
        ({"frequency": True}, "duration"),
        ({"cron": "61 * * * *"}, "61"),
        ({"cron": 5}, "cron"),
        ({"cron": "0 0 31 2 *"}, "never"),
        ({"cron": "* * * * *", "timezone": "Mars/Olympus"}, "Mars/Olympus"),
        ({"cron": "* * * * *", "timezone": ""}, "timezone"),
        ({"cron": "* * * * *", "timezone": 5}, "timezone takes a name"),
        ({"cron": "* * * * *", "frequency": 5}, "both frequency= and cron="),
        ({"frequency": 5, "timezone": "UTC"}, "timezone= belongs to cron="),
        ({"rrule": 5}, "rrule takes up to"),
        ({"rrule": "FREQ=DAILY", "cron": "* * * * *"}, "both cron= and rrule="),
        ({"rrule": "FREQ=DAILY", "frequency": 5}, "both frequency= and rrule="),
        ({"rrule": "FREQ=DAILY", "timezone": "Mars/Olympus"}, "Mars/Olympus"),
        ({"rrule": "FREQ=DAILY", "timezone": ""}, "timezone"),
        ({"rrule": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"}, "never comes"),
        ({"rrule": "FREQ=WEEKLY;INTERVAL=2"}, "begin it with DTSTART"),
        ({"missed": "skip"}, "missed= belongs to"),
        ({"frequency": 5, "missed": "never"}, "missed takes one of 'last', 'skip', 'all'"),
        ({"unique": "yes"}, "unique takes True, False"),
        ({"unique": Unique(by=("nobody",))}, "names 'nobody'; the fields of Counting are user_id"),
        ({"idempotency_key": ""}, "idempotency_key takes"),
        ({"idempotency_key": 5}, "idempotency_key takes"),
        ({"idempotency_retention": timedelta(0)}, "idempotency_retention takes a timedelta above zero"),
        ({"retry": 3}, r"retry takes Retry\("),
        ({"timeout": 5}, "timeout takes a timedelta"),
        ({"timeout": timedelta(seconds=-1)}, "timeout takes a timedelta"),
        ({"expires": timedelta(0)}, "expires takes a timedelta above zero"),
        ({"tags": "billing"}, "tags takes a list"),
        ({"tags": [""]}, "a tag takes a name"),
        ({"tags": [5]}, "a tag takes a name"),
        ({"tags": [str(n) for n in range(51)]}, "at most 50 labels"),
        ({"claim": "lock"}, 'claim takes "lease" or nothing'),
        ({"executor": "thread"}, 'executor takes "process" or nothing'),
        ({"history": 1}, "history takes True or False"),
        ({"retention": timedelta(0)}, "retention takes a timedelta above zero"),
        ({"retention": timedelta(days=1), "history": False}, "keep one of them"),
    ],
)
def test_a_wrong_option_is_refused_and_named_with_the_class(options: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError, match=message) as refusal:
        task(**options)(Counting)
    assert "@task on Counting" in str(refusal.value)
    assert len(registry) == 0


def test_an_async_idempotency_key_is_refused():
    async def key(task: Task[Any]) -> str:
        return "x"

    with pytest.raises(ConfigurationError, match="not an async one"):
        task(idempotency_key=key)(Counting)


def test_retry_beside_next_try_is_refused():
    with pytest.raises(ConfigurationError, match="@task on Deciding: both retry= and next_try"):
        task(retry=Retry(max_attempts=2))(Deciding)


@pytest.mark.parametrize("options", [{"frequency": 5}, {"cron": "* * * * *"}])
def test_a_recurring_task_needs_a_default_for_every_field(options: dict[str, Any]):
    with pytest.raises(ConfigurationError, match="@task on Needing: .*made without arguments, so give 'url' a default"):
        task(**options)(Needing)


def test_a_recurring_task_whose_defaults_fail_is_refused():
    def broken() -> int:
        raise LookupError("no such thing")

    class Broken(Counting):
        n: int = Field(default_factory=broken)

    with pytest.raises(ConfigurationError, match="that fails: no such thing"):
        task(frequency=5)(Broken)


def test_what_is_no_task_class_is_refused():
    for wrong in (5, int, "x", Counting()):
        with pytest.raises(ConfigurationError, match=r"decorates a subclass of pgqueue\.Task"):
            task(wrong)


def test_a_class_without_run_is_refused():
    class Lazy(Task): ...

    with pytest.raises(ConfigurationError, match="@task on .*Lazy: it has no `run` method"):
        task(Lazy)


def test_a_run_that_is_not_called_with_self_alone_is_refused():
    class Curious(Task):
        async def run(self, url: str) -> None: ...

    class Static(Task):
        @staticmethod
        async def run() -> None: ...

    class Yielding(Task):
        def run(self) -> Any:
            yield 1

    for wrong, message in ((Curious, "what it needs is a field"), (Static, "method that takes self"), (Yielding, "yields")):
        with pytest.raises(ConfigurationError, match=message):
            task(wrong)


def test_an_async_next_try_is_refused():
    class Waiting(Counting):
        async def next_try(self) -> timedelta | None:
            return None

    with pytest.raises(ConfigurationError, match="write `def next_try`"):
        task(Waiting)


def test_fields_that_would_not_reach_the_runner_are_refused():
    class Inner(BaseModel):
        token: SecretStr = SecretStr("x")

    class Hiding(BaseModel):
        seen: int = Field(1, exclude=True)

    class Excluded(Counting):
        n: int = Field(1, exclude=True)

    class Secret(Counting):
        token: SecretStr | None = None

    class Nested(Counting):
        inner: list[Inner] = []

    class NestedExcluded(Counting):
        inner: dict[str, Annotated[Hiding, "x"]] = {}

    for wrong, field in ((Excluded, "n"), (Secret, "token"), (Nested, r"inner\.token"), (NestedExcluded, r"inner\.seen")):
        with pytest.raises(ConfigurationError, match=f"field {field} is"):
            task(wrong)


def test_a_field_stored_under_a_name_it_is_not_read_by_is_refused():
    class OneWay(Counting):
        n: int = Field(1, serialization_alias="number")

    class Colliding(Counting):
        n: int = Field(1, alias="m")
        m: int = 2

    with pytest.raises(ConfigurationError, match="'n' is stored as 'number' but not read by that name"):
        task(OneWay)
    with pytest.raises(ConfigurationError, match="'n' and 'm' are both stored as 'm'"):
        task(Colliding)


def test_extra_fields_cannot_be_allowed():
    class Open(Counting, extra="allow"): ...

    with pytest.raises(ConfigurationError, match="a payload is its declared fields"):
        task(Open)


def test_title_and_description_come_from_the_docstring_or_the_options():
    task(Counting)
    counting = registry.get("counting")
    assert (counting.title, counting.description) == ("Count to ten", "And then\nback again.")
    task(title="Other", description="More")(Counting)
    counting = registry.get("counting")
    assert (counting.title, counting.description) == ("Other", "More")
    task(Needing)
    assert (registry.get("needing").title, registry.get("needing").description) == ("Needing", "")


def test_the_schema_and_the_options_are_json():
    task(priority=200, unique=Unique(by=("user_id",)), retry=Retry(), tags=["a"], frequency=5)(Counting)
    described = registry.get("counting").described_options()
    assert described["priority"] == 200
    assert described["unique"] == ["user_id"]
    assert registry.get("counting").payload_schema()["properties"].keys() == {"user_id"}


def test_string_enums_become_plain_strings():
    task(queue=Queues.MAIL, tags=[Queues.MAIL])(Counting)
    counting = registry.get("counting")
    assert type(counting.queue) is str
    assert counting.tags is not None
    assert type(counting.tags[0]) is str


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SendEmail", "send-email"),
        ("HTTPFetch2", "http-fetch2"),
        ("sync_users", "sync-users"),
        ("_Private", "private"),
        ("X", "x"),
        ("ETLJob", "etl-job"),
    ],
)
def test_the_default_name_is_the_class_name_in_kebab_case(name: str, expected: str):
    assert kebab(name) == expected
    assert fold(name.replace("_", "")) == fold(expected)


def test_how_a_task_runs_is_read_from_its_run():
    class Threaded(Task):
        def run(self) -> None: ...

    assert task(Counting).__task_type__.execution == "async"
    assert task(Threaded).__task_type__.execution == "thread"
    assert task(executor="process")(Threaded).__task_type__.execution == "process"


class Listing(Task[list[T]], Generic[T]):
    async def run(self) -> list[T]:
        return []


class Strict(Task[int]):
    """An intermediate base, not a task itself."""


@pytest.mark.parametrize(
    ("base", "good", "bad"),
    [
        (Task[int], 3, "three"),
        (Task[list[int]], [1, 2], [None]),
        (Task[int | None], None, "x"),
        (Task[Receipt], Receipt(number=1), {"number": "x"}),
        (Task[Bill], {"total": 1}, {}),
        (Task[Point], Point(1), {"x": "y"}),
        (Task[None], None, 5),
        (Listing[int], [1], ["x"]),
        (Strict, 4, "x"),
    ],
)
def test_the_result_is_checked_against_what_the_class_promises(base: Any, good: Any, bad: Any):
    cls = type("Promising", (base,), {"__module__": __name__, "run": partial_run()})
    adapter = task(cls).__task_type__.result_adapter
    assert adapter is not None
    assert adapter.validate_json(adapter.dump_json(adapter.validate_python(good))) == good
    with pytest.raises(ValueError, match="validation error"):
        adapter.validate_python(bad)


def test_a_task_that_promises_nothing_may_return_anything():
    assert task(Counting).__task_type__.result_adapter is None
    open_ended = type("OpenEnded", (Listing,), {"__module__": __name__})
    adapter = task(open_ended).__task_type__.result_adapter
    assert adapter is None or adapter.validate_python(["anything", 1]) == ["anything", 1]


def test_a_result_that_json_cannot_hold_is_refused_at_decoration():
    class Socketed(Task[partial]):
        async def run(self) -> partial: ...

    with pytest.raises(ConfigurationError, match="@task on .*Socketed: its result type .* cannot be stored as JSON"):
        task(Socketed)


def partial_run() -> Any:
    async def run(self: Any) -> None: ...

    return run
