"""Methods that come through the door, in specs, plans and cells: budgets, compression, nominal density, identity."""

from __future__ import annotations

import pytest
from sparsekernels.parameters import MethodChoice, parse_method

from orchestrator.domain.densities import nominal_densities
from orchestrator.domain.method_entry import MethodEntry
from tests.support.foreign_methods import Stride, behind_the_door


@pytest.mark.parametrize(
    ("name", "option", "compression", "expected"),
    [
        ("tova", "token_capacity", 8, 128),
        ("tova", "token_capacity", 1, 1024),
        ("streaming_llm", "token_budget", 10, 102),
        ("streaming_llm", "token_budget", 200, 5),
    ],
)
def test_compression_becomes_the_largest_budget_that_costs_no_more(
    name: str, option: str, compression: int, expected: int
) -> None:
    entry = MethodEntry.model_validate({name: {"compression": compression}})
    (point,) = entry.points(1024, 256)
    assert getattr(point.choice.decode, option) == expected
    assert point.budget == f"{option}={expected}"
    assert point.compression == pytest.approx(1024 / expected)


def test_a_compression_that_no_budget_reaches_is_refused() -> None:
    entry = MethodEntry.model_validate({"streaming_llm": {"compression": 1024}})
    with pytest.raises(ValueError, match="token_budget is 4; it must exceed sink_size"):
        list(entry.points(4096, window=256))


def test_plans_use_the_nominal_density() -> None:
    tova = MethodChoice(decode=parse_method("tova", {"token_capacity": 256}))
    assert nominal_densities(tova, 4096).decode == pytest.approx(1 / 16)
    assert nominal_densities(tova, 4096).prefill == 1.0
    assert nominal_densities(tova, 128).decode == 1.0


def test_without_a_nominal_density_a_plan_counts_dense_and_compression_is_refused() -> None:
    with behind_the_door(Stride):
        (point,) = MethodEntry.model_validate({"stride": {"step": 4}}).points(1024, 256)
        assert point.compression is None
        assert nominal_densities(point.choice, 1024).prefill == 1.0
        with pytest.raises(ValueError, match="compression cannot be set for this method"):
            MethodEntry.model_validate({"stride": {"compression": 4}})


def test_lists_and_phases_are_axes_as_for_built_in_methods() -> None:
    entry = MethodEntry.model_validate(
        {"prefill": {"block_sparse": {"top_blocks": [8, 16]}}, "decode": {"tova": {"token_capacity": [32, 64]}}}
    )
    budgets = [point.budget for point in entry.points(1024, 256)]
    assert len(budgets) == 4
    assert budgets[1] == "top_blocks=8+token_capacity=64"
    with pytest.raises(ValueError, match="tova is a decode method; it cannot act in compress"):
        MethodEntry.model_validate({"compress": {"tova": {"token_capacity": 32}}})
