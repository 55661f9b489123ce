"""Payloads and results: what goes in comes out, and what PostgreSQL or JSON would change is refused before the insert."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import math
from collections.abc import Iterator
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import PurePosixPath
from typing import Any, Literal
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_serializer, model_validator
from typing_extensions import TypedDict

from pgqueue import PayloadError, Queue, Task, registry, task
from pgqueue import payload as payloads
from pgqueue.payload import decode, decode_result, encode, encode_result
from pgqueue.task import Task as AnyTask


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Point:
    x: int
    label: str = ""


class Address(BaseModel):
    street: str
    score: float | None = None


class Options(TypedDict):
    retries: int
    verbose: bool


class Anything(Task):
    value: Any = None

    async def run(self) -> None: ...


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
FINITE = st.floats(allow_nan=False, allow_infinity=False)
INTEGERS = st.integers(min_value=-(10**60), max_value=10**60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
MINUTES = st.integers(-1439, 1439).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
KINDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "text": (str, TEXT),
    "integer": (int, INTEGERS),
    "float": (float, FINITE),
    "boolean": (bool, st.booleans()),
    "optional": (int | None, st.none() | INTEGERS),
    "bytes": (bytes, st.binary()),
    "decimal": (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    "datetime": (dt.datetime, st.datetimes(timezones=st.none() | MINUTES)),
    "date": (dt.date, st.dates()),
    "time": (dt.time, st.times()),
    "timedelta": (dt.timedelta, st.timedeltas(dt.timedelta(days=-9999), dt.timedelta(days=9999))),
    "uuid": (UUID, st.uuids()),
    "enum": (Color, st.sampled_from(Color)),
    "integer enum": (Level, st.sampled_from(Level)),
    "literal": (Literal["a", "b"], st.sampled_from(["a", "b"])),
    "path": (PurePosixPath, st.just(PurePosixPath("/tmp/ä b"))),
    "list": (list[int], st.lists(INTEGERS)),
    "tuple": (tuple[int, str], st.tuples(INTEGERS, TEXT)),
    "tuple of any length": (tuple[int, ...], st.lists(INTEGERS).map(tuple)),
    "set": (set[str], st.sets(TEXT)),
    "frozenset": (frozenset[int], st.frozensets(INTEGERS)),
    "dictionary": (dict[str, int], st.dictionaries(TEXT, INTEGERS)),
    "dictionary by integer": (dict[int, str], st.dictionaries(INTEGERS, TEXT)),
    "model": (Address, st.builds(Address, street=TEXT, score=st.none() | FINITE)),
    "dataclass": (Point, st.builds(Point, INTEGERS, TEXT)),
    "typed dictionary": (Options, st.fixed_dictionaries({"retries": INTEGERS, "verbose": st.booleans()})),
    "union": (int | str, INTEGERS | TEXT.filter(lambda text: not text.strip().lstrip("+-").isdigit())),
    "nested": (dict[str, list[Point | None]], st.dictionaries(TEXT, st.lists(st.none() | st.builds(Point, INTEGERS)))),
    "anything JSON": (Any, JSON),
}


@pytest.fixture(scope="module")
def jsonb(server_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that turns text into jsonb and back; it needs no schema."""
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("kind", KINDS)
def test_what_goes_into_jsonb_comes_out_equal(kind: str, jsonb: psycopg.Connection[Any]):
    annotation, values = KINDS[kind]
    cls = _task_of(annotation)
    task_type = cls.__task_type__

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
    @given(values)
    def check(value: Any) -> None:
        task = cls(value=value)
        stored = jsonb.execute("SELECT %s::jsonb::text", (encode(task_type, task),)).fetchone()
        assert stored is not None
        assert decode(task_type, stored[0]) == task

    check()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "anything JSON"])
def test_a_result_comes_out_equal(kind: str, jsonb: psycopg.Connection[Any]):
    annotation, values = KINDS[kind]
    task_type = _task_of(int, result=annotation).__task_type__

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
    @given(values)
    def check(value: Any) -> None:
        text = encode_result(task_type, value)
        stored = None if text is None else jsonb.execute("SELECT %s::jsonb::text", (text,)).fetchone()[0]
        assert decode_result(task_type, stored) == value

    check()


def _deep(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


REFUSED = {
    "NUL": "a\0b",
    "NUL in a list": ["a", "\0"],
    "NUL as a key": {"\0": 1},
    "lone surrogate": "\ud800",
    "lone surrogate in a dictionary": {"a": ["\udfff"]},
    "lone surrogate as a key": {"\ud800": 1},
    "NaN": math.nan,
    "infinity": [math.inf],
    "minus infinity in a dictionary": {"a": -math.inf},
    "endless digits": 10**5000,
    "deeper than is read back": _deep(230),
    "deep bomb": _deep(5000),
    "no JSON": object(),
    "too large": "x" * (2 * 1024 * 1024),
    "too large in bytes": "ä" * (600 * 1024),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_json_or_postgresql_cannot_hold_is_refused_before_anything_is_sent(what: str):
    task(Anything)
    with pytest.raises(PayloadError, match="the payload of anything") as refusal:
        Queue("postgresql://127.0.0.1:1/nowhere").enqueue(Anything.model_construct(value=REFUSED[what]))
    assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize("what", REFUSED)
def test_what_json_or_postgresql_cannot_hold_is_no_result(what: str):
    with pytest.raises(PayloadError, match="the result of anything"):
        encode_result(task(Anything).__task_type__, REFUSED[what])


@pytest.mark.parametrize("text", ["NaN", "Infinity", "say \\u0000", "\\ud800", "\\uD800 \\", "naïve \\u0000", '"\\\\u0000"'])
def test_text_that_only_looks_like_it_is_stored(text: str, jsonb: psycopg.Connection[Any]):
    task_type = task(Anything).__task_type__
    assert task_type is not None
    text = encode(task_type, Anything(value={text: [text]}))
    assert jsonb.execute("SELECT %s::jsonb", (text,)).fetchone() is not None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_a_nested_model_would_write_as_null_is_refused(value: float):
    cls = _task_of(list[Address], result=Address)
    assert cls.__task_type__ is not None
    with pytest.raises(PayloadError, match="holds NaN or Infinity"):
        encode(cls.__task_type__, cls(value=[Address(street="x", score=value)]))
    with pytest.raises(PayloadError, match="holds NaN or Infinity"):
        encode_result(cls.__task_type__, Address(street="x", score=value))
    assert encode(cls.__task_type__, cls(value=[Address(street="x")]))


class Checked(Task):
    number: int = Field(1, gt=0)
    name: str = "x"

    async def run(self) -> None: ...


def test_an_instance_changed_or_built_past_the_checks_is_refused(queue: Queue):
    task(Checked)
    changed = Checked()
    changed.number = -5
    retyped = Checked()
    retyped.name = 5
    needing = type("Needing", (Checked,), {"__module__": __name__, "__annotations__": {"url": str}})
    task(needing)
    for wrong in (changed, retyped, Checked.model_construct(number="many"), needing.model_construct()):
        with pytest.raises(PayloadError, match="number|name|url|str"):
            queue.enqueue(wrong)
    assert queue.depth() == 0


def test_a_serializer_that_raises_is_a_payload_error():
    class Refusing(Task):
        n: int = 1

        @field_serializer("n")
        def _serialize(self, n: int) -> int:
            raise LookupError("no")

        async def run(self) -> None: ...

    with pytest.raises(PayloadError, match="LookupError"):
        encode(task(Refusing).__task_type__, Refusing())


@pytest.mark.parametrize("error", [KeyError("x"), ZeroDivisionError(), SystemExit(1), KeyboardInterrupt()])
def test_whatever_a_validator_raises_makes_the_payload_undecodable_and_nothing_else(error: BaseException):
    class Exploding(Task):
        n: int = 1

        @model_validator(mode="after")
        def _explode(self) -> Exploding:
            if self.n == 2:
                raise error
            return self

        async def run(self) -> None: ...

    task_type = task(Exploding).__task_type__
    assert task_type is not None
    assert decode(task_type, '{"n":1}') == Exploding()
    with pytest.raises(PayloadError, match=f"the payload of exploding cannot be read: {type(error).__name__}"):
        decode(task_type, '{"n":2}')
    with pytest.raises(PayloadError, match=type(error).__name__):
        decode(task_type, '{"n":2,"new":1}')


def test_unknown_fields_of_a_stored_payload_are_ignored_with_one_warning(caplog: pytest.LogCaptureFixture):
    payloads._warned_types.clear()
    task_type = task(Checked).__task_type__
    assert task_type is not None
    with caplog.at_level(logging.WARNING, "pgqueue.payload"):
        for _ in range(3):
            assert decode(task_type, '{"number":2,"newer":{"a":1}}') == Checked(number=2)
    assert len(caplog.records) == 1
    assert "newer" in caplog.text
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        Checked(newer=1)


def test_an_unknown_field_beside_a_wrong_one_does_not_hide_it():
    task_type = task(Checked).__task_type__
    assert task_type is not None
    with pytest.raises(PayloadError, match="number: Input should be greater than 0") as refusal:
        decode(task_type, '{"number":-1,"newer":1}')
    assert "newer" not in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "5", '{"number":1e5000}', "[" * 5000, '{"number": "x"}', '{"name":"\\ud800"}']
)
def test_a_payload_put_in_by_hand_that_does_not_validate_is_a_payload_error(text: str):
    with pytest.raises(PayloadError, match="the payload of checked does not validate"):
        decode(task(Checked).__task_type__, text)


def test_a_validation_error_is_one_line_and_shows_no_values():
    with pytest.raises(PayloadError) as refusal:
        decode(task(Checked).__task_type__, '{"number":"geheim","name":5}')
    assert "geheim" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_result_that_breaks_the_promise_is_refused():
    task_type = _task_of(int, result=Address).__task_type__
    with pytest.raises(PayloadError, match=r"the result of .* is not what Task\[\.\.\.\] promises: street"):
        encode_result(task_type, {"street": None})
    with pytest.raises(PayloadError, match="stored result of .* does not validate"):
        decode_result(task_type, '{"road": 1}')


def test_no_result_is_null_and_a_null_where_one_is_promised_is_refused():
    assert encode_result(task(Anything).__task_type__, None) is None
    promising = _task_of(int, result=int).__task_type__
    with pytest.raises(PayloadError):
        encode_result(promising, None)
    assert decode_result(None, "[1]") == [1]
    with pytest.raises(PayloadError, match="cannot be read"):
        decode_result(None, "[" * 100_000)


def test_the_limit_is_a_setting(queue: Queue, monkeypatch: pytest.MonkeyPatch):
    task(Anything)
    fits = Anything(value="x" * (1024 * 1024 - len('{"value":""}')))
    assert len(encode(Anything.__task_type__, fits)) == 1024 * 1024
    assert queue.get(queue.enqueue(fits)) is not None
    with pytest.raises(PayloadError, match="1,048,577 bytes of JSON, over the limit of 1,048,576"):
        queue.enqueue(Anything(value="x" * (1024 * 1024 + 1 - len('{"value":""}'))))


def test_values_by_name_may_be_python_values_or_their_json_forms():
    cls = _task_of(dict[str, bytes | dt.datetime])
    assert cls.__task_type__ is not None
    instant = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    assert payloads.validate(cls.__task_type__, {"value": {"a": instant}}) == cls(value={"a": instant})
    with pytest.raises(PayloadError, match="does not validate: value: Field required"):
        payloads.validate(cls.__task_type__, {})
    with pytest.raises(PayloadError, match="cannot be stored as JSON"):
        payloads.validate(cls.__task_type__, {"value": object()})
    with pytest.raises(PayloadError):
        payloads.validate(cls.__task_type__, {"value": "\ud800"})


def _task_of(annotation: Any, *, result: Any = None) -> Any:
    """A task class with one field `value` of this kind, and perhaps a result of that one."""

    async def run(self: AnyTask[Any]) -> None: ...

    base = Task if result is None else Task[result]
    namespace = {"__annotations__": {"value": annotation}, "__module__": __name__, "run": run}
    cls = type(f"Holding{len(registry)}", (base,), namespace)
    return task(cls)
