"""Two tensor-parallel ranks or pipeline stages equal one; replicated KV heads; an engine that dies says so and gives
its memory back."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")
pytest.importorskip("transformers")

from tests.support.vllm_engines import run_requests, tiny_engine, tiny_model  # noqa: E402
from tests.support.vllm_requests import METHODS, requests  # noqa: E402
from workers.engine import GenerationRequest  # noqa: E402
from workers.failures import EngineDead, EngineKilled, EngineStartError, FailureKind  # noqa: E402
from workers.vllm_engine import VllmEngine  # noqa: E402

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    tiny_model(path)
    return path


def _poll_until_it_raises(engine: VllmEngine) -> None:
    for _ in range(120):
        engine.poll(1.0)


def worker_pids() -> list[int]:
    """Processes that this test's engine started, by their parent."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid() and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize(
    ("split", "kv_heads", "seed"), [("tensor_parallel", 2, 3), ("tensor_parallel", 1, 7), ("pipeline_parallel", 2, 3)]
)
def test_two_ranks_give_the_result_of_one(split: str, kv_heads: int, seed: int, tmp_path: Path) -> None:
    """With one KV head both tensor-parallel ranks hold it: votes and shared page scores must still see its whole group.
    Of two pipeline stages one has one layer of the three, the other two.

    Prompts are such that the last kept vote of every layer is at least 0.1 % above the first dropped one. Under seed 3
    Ada-SnapKV's votes tie in the model of one KV head (saturated probabilities), and rounding would choose.
    """
    tiny_model(tmp_path, kv_heads)
    single = tiny_engine(tmp_path)
    try:
        expected = run_requests(single, requests(seed))
    finally:
        single.close()
    double = tiny_engine(tmp_path, **{split: 2})
    try:
        found = run_requests(double, requests(seed))
    finally:
        double.close()
    for name in METHODS:
        assert found[name].token_ids == expected[name].token_ids, name
        assert double.logprobs[name] == pytest.approx(single.logprobs[name], abs=1e-3), name
        for figure in ("density_prefill", "density_decode", "kv_kept"):
            assert getattr(found[name], figure) == pytest.approx(getattr(expected[name], figure), abs=1e-6), name
            layers = found[name].layers[figure]
            assert layers == pytest.approx(expected[name].layers[figure], abs=1e-6), (name, figure)


def test_a_killed_engine_is_reported_dead_and_closes(folder: Path) -> None:
    before = set(worker_pids())
    engine = tiny_engine(folder, options={"in_process": False})
    engine.submit(GenerationRequest(request_id="lost", prompt_token_ids=[5] * 100, max_tokens=400))
    started = set(worker_pids()) - before
    assert started
    for pid in started:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineKilled, match="vLLM died") as caught:
        _poll_until_it_raises(engine)
    assert caught.value.failure().kind is FailureKind.WORKER_LOST, "a kill from outside is no sample's fault"
    with pytest.raises(EngineDead):
        engine.submit(GenerationRequest(request_id="late", prompt_token_ids=[5], max_tokens=1))
    engine.close()
    engine.close()
    assert not started & set(worker_pids())


def test_an_impossible_engine_is_refused_in_one_line(folder: Path) -> None:
    with pytest.raises(EngineStartError, match="tensor_parallel is 3") as caught:
        tiny_engine(folder, tensor_parallel=3)
    assert "\n" not in str(caught.value)
    with pytest.raises(EngineStartError, match="no folder"):
        tiny_engine(folder / "missing")


def test_the_protocol_is_complete() -> None:
    for name in ("submit", "poll", "abort", "progress", "close", "facts"):
        assert hasattr(VllmEngine, name)
