"""Buckets: what a value adds, and what is read back."""

from __future__ import annotations

from collections import Counter

import pytest

from statesync.hot.histograms import (
    BATCH,
    CHANGE_TO_DURABLE,
    COMMIT,
    Distribution,
    Histogram,
    observe_save,
)

INFINITE = float("inf")


@pytest.mark.parametrize("histogram", [BATCH, CHANGE_TO_DURABLE, COMMIT])
def test_bounds_rise(histogram: Histogram) -> None:
    assert list(histogram.bounds) == sorted({*histogram.bounds})


def test_a_value_that_equals_a_bound_is_at_most_that() -> None:
    histogram = Histogram("waits", (1000, 5000), per_unit=1000)
    assert histogram.observe(1000) == {"waits 1000": 1, "waits sum": 1000}
    assert histogram.observe(1001) == {"waits 5000": 1, "waits sum": 1001}
    assert histogram.observe(5001) == {"waits inf": 1, "waits sum": 5001}


def test_what_is_read_is_cumulated_and_in_the_unit_of_the_metric() -> None:
    histogram = Histogram("waits", (1000, 5000), per_unit=1000)
    numbers: Counter[str] = Counter()
    for value in (500, 1000, 4000, 9000, 9500):
        numbers.update(histogram.observe(value))
    numbers["others 1000"] = 7
    assert histogram.read(numbers) == Distribution([(1, 2), (5, 3), (INFINITE, 5)], 24)
    assert histogram.read({}) == Distribution([(1, 0), (5, 0), (INFINITE, 0)], 0)


def test_a_save_is_one_batch_and_one_transaction() -> None:
    observed = observe_save(500, 0.0421)
    assert BATCH.read(observed).total == 500
    assert COMMIT.read(observed).total == 0.0421
    assert dict(COMMIT.read(observed).buckets)[0.05] == 1
    assert dict(COMMIT.read(observed).buckets)[0.025] == 0


def test_the_promise_can_be_read_for_intervals_from_a_second_to_five_minutes() -> None:
    bounds = [bound / CHANGE_TO_DURABLE.per_unit for bound in CHANGE_TO_DURABLE.bounds]
    assert {1, 5, 10, 15, 30, 60, 120, 300} <= {*bounds}
