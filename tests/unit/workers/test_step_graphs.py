"""When a step of sparse decode rows is captured, replayed or left alone; graphs themselves need a GPU."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from workers.vllm_plugin import step_graphs
from workers.vllm_plugin.graphs import guard_graphs
from workers.vllm_plugin.requests import EXTRA_KEY
from workers.vllm_plugin.session import Session
from workers.vllm_plugin.step_graphs import CAPTURE_AFTER, StepGraphs

vllm_modes = pytest.importorskip("vllm.config.compilation")
FULL, PIECEWISE, NONE = (getattr(vllm_modes.CUDAGraphMode, name) for name in ("FULL", "PIECEWISE", "NONE"))
QUEST: dict[str, Any] = {"decode": {"name": "quest", "token_budget": 32}}
LAYER = "model.layers.0.self_attn.attn"


class Graph:
    """Stands for a CUDA graph; counts its replays."""

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


class Layer:
    """A layer that notes which rows' page summaries are built."""

    kv_cache = torch.zeros(1)

    def __init__(self) -> None:
        self.impl = self
        self.prepared: list[list[list[int]]] = []

    def cache_page(self, _: Any) -> int:
        return 16

    def prepare_rows(self, _: Any, __: Any, fresh: Any) -> None:
        self.prepared.append(fresh.numbers.tolist())


class Runner:
    """What the graphs use of vLLM's model runner V2."""

    max_num_reqs, max_model_len, device = 4, 512, torch.device("cpu")

    def __init__(self, session: Session) -> None:
        self.session, self.steps, self.modes = session, [], []
        self.model = SimpleNamespace(forward=self._forward)
        self.model_state = SimpleNamespace(prepare_attn=lambda _, mode: self.modes.append(mode))
        self.cudagraph_manager = SimpleNamespace(dispatch=self._dispatch, pool=None)
        self.inputs = torch.zeros(4, dtype=torch.int64)

    def _forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.steps.append(self.session.step)
        return tokens

    def _dispatch(self, _: int, num_tokens: int, uniform: int | None) -> Any:
        return step_of(FULL, 2) if uniform == 1 else step_of(PIECEWISE, num_tokens)

    def run(self, num_reqs: int) -> Any:
        """One step as the runner does it: choose, prepare, run the model."""
        chosen = self.cudagraph_manager.dispatch(num_reqs, num_reqs, 1)
        self.model_state.prepare_attn(None, chosen.cg_mode)
        self.model.forward(self.inputs[: chosen.num_tokens])
        return chosen


def step_of(mode: Any, num_tokens: int) -> Any:
    from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor

    return BatchExecutionDescriptor(cg_mode=mode, num_tokens=num_tokens, num_reqs=num_tokens)


def schedule(session: Session, position: int, methods: dict[str, dict[str, Any]], *, new: bool = False) -> None:
    """One row a request at `position`; prompts of 100 tokens."""
    arriving = [
        SimpleNamespace(
            req_id=name, prompt_token_ids=[1] * 100, num_computed_tokens=position,
            sampling_params=SimpleNamespace(extra_args={EXTRA_KEY: {"id": name, "method": method}}),
        )
        for name, method in methods.items()
    ]  # fmt: skip
    cached = SimpleNamespace(
        req_ids=[] if new else list(methods), num_computed_tokens=[] if new else [position] * len(methods),
        resumed_req_ids=set(),
    )  # fmt: skip
    session.begin(
        SimpleNamespace(
            finished_req_ids=set(), scheduled_new_reqs=arriving if new else [], scheduled_cached_reqs=cached,
            num_scheduled_tokens=dict.fromkeys(methods, 1),
        )
    )  # fmt: skip
    session.row_order = lambda: list(methods)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> tuple[Session, Runner, StepGraphs, Layer]:
    session, layer = Session(), Layer()
    runner = Runner(session)
    monkeypatch.setattr(step_graphs.torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(step_graphs, "_recording", lambda *_: nullcontext())
    metadata = SimpleNamespace(block_table=None, slot_mapping=torch.arange(4))
    monkeypatch.setattr(StepGraphs, "_metadata", lambda *_: metadata)
    graphs = StepGraphs(session, runner, {LAYER: layer})
    guard_graphs(runner, session.is_stock, graphs.wants)
    return session, runner, graphs, layer


def test_a_shape_is_captured_when_it_has_come_often_and_then_replayed(made: Any) -> None:
    session, runner, graphs, layer = made
    schedule(session, 100, {"a": QUEST}, new=True)
    for i in range(CAPTURE_AFTER - 1):
        schedule(session, 100 + i, {"a": QUEST})
        assert runner.run(1).cg_mode == PIECEWISE
        session.end()
    assert not any(runner.steps)
    for i in range(3):
        schedule(session, 100 + CAPTURE_AFTER + i, {"a": QUEST})
        chosen = runner.run(1)
        assert (chosen.cg_mode, chosen.num_tokens) == (NONE, 2)
        session.end()
    assert (graphs.num_captured, graphs.num_replayed) == (1, 2)
    assert sum(step is not None for step in runner.steps) == 2  # the step itself, and its recording
    assert runner.modes[-3:] == [FULL] * 3
    # The rows before were never planned here, so the first of these builds the page summaries, once.
    assert layer.prepared == [[[0], [100 + CAPTURE_AFTER]]]


def test_a_full_graph_for_any_batch_is_never_taken_for_a_sparse_step(made: Any) -> None:
    session, runner, *_ = made
    runner.cudagraph_manager = SimpleNamespace(dispatch=lambda *_: step_of(FULL, 2), pool=None)
    guard_graphs(runner, session.is_stock)
    schedule(session, 100, {"a": QUEST}, new=True)
    chosen = runner.cudagraph_manager.dispatch(1, 1, 1)
    assert (chosen.cg_mode, chosen.num_tokens, chosen.num_reqs) == (NONE, 1, 1)


def test_dense_steps_keep_the_stock_graph(made: Any) -> None:
    session, runner, graphs, _ = made
    schedule(session, 100, {"a": {}, "b": {}}, new=True)
    for i in range(CAPTURE_AFTER + 2):
        schedule(session, 101 + i, {"a": {}, "b": {}})
        assert runner.run(2).cg_mode == FULL
        session.end()
    assert graphs.num_captured == 0


def test_a_step_with_a_voting_row_is_left_to_piecewise_graphs(made: Any) -> None:
    session, runner, graphs, _ = made
    voting = {"a": QUEST, "b": {"compress": {"name": "snapkv", "token_capacity": 512}}}
    for _ in range(CAPTURE_AFTER + 2):
        schedule(session, 99, voting, new=True)
        assert runner.run(2).cg_mode == PIECEWISE
        session.end()
    assert graphs.num_captured == 0
