"""A scaled-down run of the slot benchmark: what greedy claiming does to wide tasks, and what `choose` does instead."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SECONDS = 1500


@pytest.fixture(scope="module")
def sim() -> ModuleType:
    return load("slot_sim")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def saturated(sim: ModuleType, policy: str, *, crash_after: int | None = None, park: tuple[int, ...] = (16, 8, 4)):
    slots = sum(park)
    stream = sim.narrow(SECONDS, slots=slots, load=1.1) + sim.wide(1, slots=park[0], first=200, every=0)
    machines = [sim.Capacity(slots=count) for count in park]
    return sim.Simulation(stream, machines, sim.POLICIES[policy], crash_after=crash_after).run(SECONDS)


def test_greedy_never_starts_a_wide_task_under_a_saturating_stream(sim):
    assert saturated(sim, "greedy").wide_started == 0


def test_choose_starts_it_soon_and_keeps_the_machines_as_busy_as_greedy_does(sim):
    greedy, chosen = saturated(sim, "greedy"), saturated(sim, "choose")
    assert chosen.wide_started == 1
    assert chosen.wide_longest_wait < 200
    assert chosen.use > greedy.use - 0.03


def test_a_reservation_whose_holder_dies_blocks_the_task_no_longer_than_its_lease(sim):
    crashed = saturated(sim, "choose", crash_after=200, park=(12, 12))
    whole = saturated(sim, "choose", park=(12, 12))
    assert crashed.wide_started == 1
    assert crashed.wide_longest_wait < whole.wide_longest_wait + sim.LEASE_SECONDS + 90


def test_order_alone_leaves_machines_idle_where_choose_does_not(sim):
    """First come, first served is no answer: behind a wide task everything waits."""
    stream = sim.uneven(3600, slots=24, load=1.6, limit=900.0) + sim.wide(3, slots=12, first=300, every=900)
    machines = [sim.Capacity(slots=12), sim.Capacity(slots=12)]
    in_order, chosen = (
        sim.Simulation(stream, machines, sim.POLICIES[name]).run(3600) for name in ("in_order", "choose")
    )
    assert chosen.use > in_order.use + 0.02
    assert chosen.mean_wait < 0.8 * in_order.mean_wait


def test_the_adapter_for_other_simulators_calls_the_products_function_and_keeps_ids():
    lab = load("slot_lab")

    class Row:
        def __init__(self, id: int, slots: int, max_time: float) -> None:
            self.id, self.slots, self.max_time, self.kill, self.due = id, slots, max_time, None, 0.0
            self.holder = self.hold_start = None

    claims, reserve = lab.choose(0.0, 2, 4, [(2, 90.0, 100.0)], [Row(7, 4, 50.0), Row(8, 1, 95.0), Row(9, 1, 90.0)])
    assert (claims, reserve) == ([9], (7, 90.0))
