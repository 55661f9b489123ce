"""Where a task may stand and how it may move."""

from __future__ import annotations

from itertools import product
from typing import Any

import psycopg
import pytest

from pgqueue import Status
from pgqueue.states import FINISHED, MOVES, UNFINISHED, WAITING, diagram, may_move

LEGAL = {
    "scheduled": "ready blocked cancelled deleted succeeded dead",
    "blocked": "ready running scheduled cancelled deleted succeeded dead",
    "ready": "running blocked scheduled cancelled deleted succeeded dead",
    "running": "ready scheduled blocked succeeded dead cancelled ignored",
    "dead": "ready",
    "deleted": "ready scheduled",
}


@pytest.mark.parametrize(("before", "after"), list(product(Status, Status)))
def test_a_move_is_legal_if_and_only_if_the_design_names_it(before: Status, after: Status):
    assert may_move(before=before, after=after) is (after.value in LEGAL.get(before.value, "").split())


def test_every_status_has_its_moves_and_one_kind():
    assert MOVES.keys() == set(Status)
    assert WAITING < UNFINISHED
    assert set(Status) == UNFINISHED | FINISHED
    assert not UNFINISHED & FINISHED


def test_every_status_can_be_reached():
    reached = {Status.SCHEDULED, Status.READY}
    while more := {after for before in reached for after in MOVES[before]} - reached:
        reached |= more
    assert reached == set(Status)


def test_the_diagram_draws_every_move():
    drawn = diagram()
    for before, afters in MOVES.items():
        for after in afters:
            assert f"    {before} --> {after}" in drawn
    assert drawn.count("-->") == sum(map(len, MOVES.values())) + 2 + len(FINISHED)


def test_the_database_has_the_same_words_in_the_same_order(connection: psycopg.Connection[Any]):
    rows = connection.execute("SELECT unnest(enum_range(NULL::pgqueue.status))::text").fetchall()
    assert [row[0] for row in rows] == [status.value for status in Status]


def test_an_ended_status_has_no_place_among_the_unfinished(connection: psycopg.Connection[Any]):
    for status in FINISHED:
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute("INSERT INTO pgqueue.task (type, status) VALUES ('x', %s)", (status.value,))
