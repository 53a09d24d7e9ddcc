"""Pools: the sizing, the rules, PgBouncer for real, the metrics and their alarms."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbscale.cluster.sizing import (
    Server,
    Workload,
    chance_to_wait,
    connections_for,
    deadlock_bound,
    size,
    wait_quantile,
)


@pytest.mark.parametrize(("count", "milliseconds"), [(11, 85), (12, 38), (13, 22), (14, 14), (15, 9), (16, 6), (18, 1)])
def test_waiting_time_of_a_known_load(count: int, milliseconds: int) -> None:
    """500 checkouts a second, each of 20 ms."""
    assert round(wait_quantile(count, 500, 0.02) * 1000) == pytest.approx(milliseconds, abs=1)


@pytest.mark.parametrize(("count", "percent"), [(5, 55), (10, 41), (15, 32), (20, 26), (50, 9)])
def test_the_chance_to_wait_at_80_percent(count: int, percent: int) -> None:
    assert round(chance_to_wait(count, 0.8 * count) * 100) == percent


@given(st.integers(1, 300), st.floats(0.01, 250))
def test_the_chance_to_wait_agrees_with_the_sum(count: int, load: float) -> None:
    """Against the textbook's formula, in logarithms."""
    if load >= count:
        assert chance_to_wait(count, load) == 1
        return
    logs = [k * math.log(load) - math.lgamma(k + 1) for k in range(count)]
    last = count * math.log(load) - math.lgamma(count + 1) + math.log(count / (count - load))
    top = max(*logs, last)
    expected = math.exp(last - top) / (sum(math.exp(x - top) for x in logs) + math.exp(last - top))
    assert chance_to_wait(count, load) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(st.floats(0.1, 2000), st.floats(0.001, 0.2), st.floats(0.001, 0.5))
def test_the_fewest_connections_are_the_fewest(rate: float, hold: float, wait: float) -> None:
    count = connections_for(rate, hold, wait)
    if count < 1000:
        assert wait_quantile(count, rate, hold) <= wait
    if count > 1:
        assert wait_quantile(count - 1, rate, hold) > wait


def test_a_small_application_is_bound_by_its_workload() -> None:
    sizing = size(Server(max_connections=100), Workload(rate=100, hold=0.02, instances=2, workers=2))
    assert (sizing.bound, sizing.fits) == ("workload", True)
    assert sizing.pool * 8 <= 94


def test_many_processes_ask_for_a_pgbouncer() -> None:
    sizing = size(Server(max_connections=100), Workload(rate=800, hold=0.02, instances=16, workers=4))
    assert sizing.bound == "pgbouncer"
    assert 0 < sizing.server_pool <= 94


def test_a_load_beyond_the_server_does_not_fit() -> None:
    sizing = size(Server(max_connections=100), Workload(rate=10000, hold=0.05, instances=4, workers=4))
    assert (sizing.bound, sizing.fits, sizing.wait_p99) == ("server", False, math.inf)


def test_nested_checkouts_bound_the_pool() -> None:
    sizing = size(Server(max_connections=500), Workload(rate=1, hold=0.01, threads=20, nested=2))
    assert (sizing.bound, sizing.pool) == ("deadlock", deadlock_bound(20, 2))


def test_a_connection_limit_bounds_the_budget() -> None:
    assert Server(max_connections=100, limit=20).budget == 20
    assert Server(max_connections=100, reserved=5, other=10).budget == 79
    assert Server(max_connections=5).budget == 0
