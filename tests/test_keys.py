"""Unique and idempotency keys: equal for equal values, in every process, and different otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from pgqueue import ConfigurationError, PayloadError, Task, Unique, task
from pgqueue.keys import idempotency_key, unique_key


class Inner(BaseModel):
    tags: set[str] = set()


class Syncing(Task):
    user_id: int = 1
    names: set[str] = set()
    inner: dict[str, Inner] = {}
    anything: Any = None
    amount: Decimal = Decimal(0)
    renamed: str = Field("", alias="other")

    async def run(self) -> None: ...


def _key(instance: Syncing, *by: str) -> bytes:
    task_type = task(Syncing).__task_type__
    assert task_type is not None
    return unique_key(task_type, instance, Unique(by=by))


def test_a_key_is_32_bytes_and_depends_on_the_named_fields_alone():
    assert len(_key(Syncing())) == 32
    assert _key(Syncing(user_id=1)) == _key(Syncing(user_id=2))
    assert _key(Syncing(user_id=1), "user_id") != _key(Syncing(user_id=2), "user_id")
    assert _key(Syncing(user_id=1, amount=Decimal(5)), "user_id") == _key(Syncing(user_id=1), "user_id")
    assert _key(Syncing(), "user_id", "amount") == _key(Syncing(), "amount", "user_id")
    assert _key(Syncing(other="x"), "renamed") != _key(Syncing(other="y"), "renamed")


def test_types_do_not_share_keys():
    other = task(type("Other", (Syncing,), {"__module__": __name__})).__task_type__
    assert other is not None
    assert unique_key(other, Syncing(), Unique()) != _key(Syncing())
    assert idempotency_key(other, Syncing(), "a") != idempotency_key(task(Syncing).__task_type__, Syncing(), "a")


@given(st.sets(st.text(st.characters(exclude_categories=["Cs"])), max_size=5), st.randoms())
def test_the_order_of_a_set_or_a_dictionary_does_not_matter(words: set[str], random: Any):
    shuffled = list(words)
    random.shuffle(shuffled)
    one = Syncing(names=words, anything=dict.fromkeys(sorted(words), 1), inner={"a": Inner(tags=words)})
    other = Syncing(names=set(shuffled), anything=dict.fromkeys(shuffled, 1), inner={"a": Inner(tags=set(shuffled))})
    assert _key(one, "names", "anything", "inner") == _key(other, "names", "anything", "inner")


def test_a_set_gives_the_same_key_in_every_process():
    """Strings hash differently in each, so a set comes out in another order."""
    program = (
        "from tests.test_keys import *; from tests.test_keys import _key;"
        "words = {'a', 'b', 'c', 'd', 'e', 'f'};"
        "print(_key(Syncing(names=words, inner={'x': Inner(tags=words)}), 'names', 'inner').hex())"
    )
    keys = set()
    for seed in (1, 2):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=50)
        assert done.returncode == 0, done.stderr
        keys.add(done.stdout)
    assert len(keys) == 1


@pytest.mark.parametrize("by", [5, (5,), ("",), None])
def test_what_names_no_fields_is_refused(by: Any):
    with pytest.raises(ConfigurationError, match=r"Unique\(by=\.\.\.\) takes names of payload fields"):
        Unique(by=by)


def test_one_field_may_be_named_without_a_tuple():
    assert Unique(by="user_id") == Unique(by=("user_id",))


@pytest.mark.parametrize("value", ["", None, 5, b"x"])
def test_a_key_function_must_give_a_string(value: Any):
    task_type = task(Syncing).__task_type__
    assert task_type is not None
    with pytest.raises(PayloadError, match="the idempotency_key function of syncing must give a string"):
        idempotency_key(task_type, Syncing(), lambda task: value)
    if not callable(value):
        with pytest.raises(ConfigurationError, match="idempotency_key of syncing must give a string"):
            idempotency_key(task_type, Syncing(), value)


def test_any_string_is_a_key_however_long():
    task_type = task(Syncing).__task_type__
    assert task_type is not None
    keys = [idempotency_key(task_type, Syncing(), key) for key in ("\0", "\ud800", "x" * 1_000_000, "x" * 999_999)]
    assert len({*keys}) == 4
    assert idempotency_key(task_type, Syncing(user_id=7), lambda task: f"user-{task.user_id}") == idempotency_key(
        task_type, Syncing(), "user-7"
    )
