"""The benchmark's own arithmetic and table. That a speed is reached is never asserted here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import registry
from benchmarks.drains import growth
from benchmarks.figures import Figure, Record, Target, at_least, at_most, read, select
from benchmarks.ground import runner_flags
from benchmarks.latency import percentile
from benchmarks.report import number, table

ROOT = Path(__file__).parents[1]
FACTS = {"postgresql": "18.6", "python": "3.11", "cores": 2, "tasks": 200_000, "quick": False}


def figure(name: str = "ratio", to: str | None = "b.rate", target: Target | None = None) -> Figure:
    return Figure(name, "what it is", "", "a.rate", to, target)


def runs(*rates: float) -> Record:
    return Record(runs=[{"rate": rate} for rate in rates])


def test_a_ratio_is_taken_within_each_run_and_the_median_is_that_of_the_ratios():
    reading = read(figure(), {"a": runs(10.0, 60.0, 30.0), "b": runs(10.0, 20.0, 15.0)})
    assert reading.runs == [1.0, 3.0, 2.0]
    assert reading.median == 2.0


def test_a_figure_of_one_value_is_that_value():
    assert read(figure(to=None), {"a": runs(5.0, 7.0)}).runs == [5.0, 7.0]


def test_a_ratio_is_skipped_with_the_reason_of_either_half():
    reading = read(figure(target=at_least(1)), {"a": runs(1.0), "b": Record(skipped="no flag")})
    assert (reading.runs, reading.skipped, reading.is_reached) == ([], "no flag", None)


def test_a_failure_counts_more_than_a_skip():
    reading = read(figure(), {"a": Record(skipped="no flag"), "b": Record(failed="it broke")})
    assert (reading.skipped, reading.failed) == (None, "it broke")


@pytest.mark.parametrize(
    ("target", "value", "reached"),
    [(at_least(0.6), 0.6, True), (at_least(0.6), 0.59, False), (at_most(5), 5, True), (at_most(5), 5.1, False)],
)
def test_a_target_includes_its_own_value(target, value, reached):
    assert target.is_reached(value) is reached


def test_the_table_marks_what_is_reached_missed_skipped_and_failed():
    records = {"a": runs(1.0, 2.0), "b": runs(2.0, 2.0), "c": Record(skipped="no flag"), "d": Record(failed="it broke")}
    readings = [
        read(figure("good", target=at_least(0.7)), records),
        read(figure("bad", target=at_least(0.9)), records),
        read(Figure("absent", "", "", "c.rate", None, at_least(1)), records),
        read(Figure("broken", "", "", "d.rate", None, at_least(1)), records),
    ]
    lines = {line.split()[0]: line for line in table(FACTS, readings).splitlines()[3:7]}
    assert lines["good"].endswith("reached")
    assert lines["bad"].endswith("MISSED")
    assert "0.5 – 1" in lines["bad"]
    assert lines["absent"].endswith("skipped")
    assert lines["broken"].endswith("FAILED")
    assert table(FACTS, readings).splitlines()[-2:] == ["absent: skipped, no flag", "broken: FAILED, it broke"]


def test_the_table_says_that_quick_sizes_mean_little():
    assert "mean little" in table(FACTS | {"quick": True}, [])


def test_numbers_keep_three_digits():
    assert [number(value) for value in (123_456.7, 12.345, 0.12345, 3.0)] == ["123,457", "12.3", "0.123", "3"]


def test_a_percentile_is_the_smallest_value_that_the_share_does_not_exceed():
    hundred = list(range(1, 101))
    assert [percentile(hundred, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert percentile([7.0], 0.99) == 7.0


def test_growth_compares_the_last_quarter_with_the_second():
    assert growth([1, 1, 2, 2, 2, 2, 4, 4]) == 2.0
    assert growth([5]) == 1.0


def test_figures_are_chosen_by_name():
    assert [one.name for one in select(registry.FIGURES, ["wal", "drain"])] == ["drain", "wal"]
    assert select(registry.FIGURES, []) == list(registry.FIGURES)
    with pytest.raises(ValueError, match="there is no figure 'drian'"):
        select(registry.FIGURES, ["drian"])


def test_every_figure_is_read_off_a_measurement_and_every_measurement_is_used():
    names = [measurement.name for measurement in registry.MEASUREMENTS]
    used = {name for one in registry.FIGURES for name in one.measurements}
    assert used == set(names)
    assert len(names) == len(set(names))
    assert len({one.name for one in registry.FIGURES}) == len(registry.FIGURES)


def test_every_figure_is_explained_with_its_aim():
    page = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    rows = {
        name: row for row in page.splitlines() if row.startswith("| `") for name in re.findall(r"`([\w-]+)`", row.split("|")[1])
    }
    for one in registry.FIGURES:
        aim = "" if one.target is None or one.target.value in (0, 199) else f"{one.target} {one.unit}".strip()
        assert aim in rows[one.name], one.name


def test_the_flags_of_the_runner_are_seen():
    assert {"--drain", "--concurrency", "--lease"} <= runner_flags()
