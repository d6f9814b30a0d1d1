"""Steps of decode rows alone: which shapes they have, and (in Triton's interpreter) what layers make of tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.interpreted import run_interpreted
from workers.vllm_plugin.requests import RequestState
from workers.vllm_plugin.step_tables import QuestRows, StepShape, shape_of

QUEST: dict[str, Any] = {"decode": {"name": "quest", "token_budget": 48}}
SNAP: dict[str, Any] = {"compress": {"name": "snapkv", "token_capacity": 512}}


def state(method: dict[str, Any], prompt_length: int = 100) -> RequestState:
    return RequestState.new("internal", prompt_length, {"method": method})


def test_layers_read_from_tables_what_they_read_from_the_batch() -> None:
    run_interpreted(Path(__file__).parent / "interpreted")


def test_budgets_and_lengths_of_one_power_of_two_share_a_shape() -> None:
    first = shape_of(4, [(state(QUEST), 300), (state({}), 100)], 16)
    longer = shape_of(4, [(state({"decode": {"name": "quest", "token_budget": 64}}), 500), (state({}), 7000)], 16)
    assert first == longer == StepShape(4, 32, True, (QuestRows(16, True, 64),), 0)


@pytest.mark.parametrize(
    ("method", "position"),
    [
        (SNAP, 99),  # a prompt row votes
        ({"prefill": {"name": "block_sparse", "top_blocks": 4}}, 99),
        (SNAP | QUEST, 100),
        ({"prefill": {"name": "sparsek", "adapter": "a", "slots": 64}}, 100),
    ],
)
def test_rows_that_tables_cannot_hold_leave_the_step_to_piecewise_graphs(method: dict[str, Any], position: int) -> None:
    assert shape_of(4, [(state({}), 200), (state(method), position)], 16) is None


def test_a_dense_row_of_a_prompt_is_dense() -> None:
    assert shape_of(1, [(state(QUEST), 99)], 16) == StepShape(1, 0, True, (), 0)
