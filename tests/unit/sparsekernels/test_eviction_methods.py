"""TOVA and StreamingLLM against loops written from the papers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sparsekernels.choosing import Place, choose, chosen_tokens
from sparsekernels.eviction import StreamingLLM, Tova

from tests.support import selection_oracle as oracle

HEADS, KV_HEADS, SIZE = 6, 2, 8
SCALE = SIZE**-0.5


def sequence(length: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(length, h, SIZE, generator=g, dtype=torch.float64) for h in (HEADS, KV_HEADS))  # type: ignore[return-value]


def reads(method: Tova | StreamingLLM, q: torch.Tensor, k: torch.Tensor, prompt: int) -> list[list[int]]:
    """What each decode row reads, all heads alike."""
    place = Place(scale=SCALE)
    if hasattr(method, "window"):
        choose(q[prompt - 1 : prompt], k[:prompt], method, place)
    found = []
    for row in range(prompt, len(q)):
        selection = choose(q[row : row + 1], k[: row + 1], method, place)
        selection.validate([row + 1])
        tokens, counts = chosen_tokens(selection)
        lists = [t[: int(c)].tolist() for t, c in zip(tokens, counts, strict=True)]
        assert all(one == lists[0] for one in lists)
        assert len(lists) == KV_HEADS
        found.append(lists[0])
    return found


@pytest.mark.parametrize("capacity", [1, 2, 7, 19, 20, 100])
@pytest.mark.parametrize("seed", [0, 1])
def test_tova_drops_what_the_newest_token_attends_to_least(capacity: int, seed: int) -> None:
    q, k = sequence(45, seed)
    found = reads(Tova(token_capacity=capacity), q, k, 20)
    assert found == oracle.tova_reads(q.numpy(), k.numpy(), 20, capacity)
    assert all(len(one) <= capacity + 1 for one in found)


def test_tova_never_reads_again_what_it_dropped() -> None:
    q, k = sequence(60, 3)
    found = reads(Tova(token_capacity=9), q, k, 30)
    for before, after in pairwise(found):
        assert set(after[:-1]) <= set(before)
        assert len(set(before) - set(after)) == 1


def test_tova_on_two_processes_is_tova_on_one() -> None:
    """Each holds one KV head with its query heads; weights are averaged over all."""
    q, k = sequence(40, 4)
    states: list[dict[str, Any]] = [{}, {}]
    whole: dict[str, Any] = {}
    method = Tova(token_capacity=6)
    for row in range(24, 40):
        rows, keys = q[row : row + 1], k[: row + 1]
        own = [(rows[:, head * 3 : head * 3 + 3], keys[:, head : head + 1]) for head in range(KV_HEADS)]
        means: list[torch.Tensor] = []
        for state, (part, key) in zip(states, own, strict=True):  # first what each process would send
            choose(part, key, method, Place(scale=SCALE, state=dict(state), all_heads=_recorded(means)))
        joined = torch.cat(means)
        alone = choose(rows, keys, method, Place(scale=SCALE, state=whole))
        for head, (state, (part, key)) in enumerate(zip(states, own, strict=True)):
            split = choose(part, key, method, Place(scale=SCALE, state=state, all_heads=_instead(joined)))
            assert torch.equal(split.pages[:, 0], alone.pages[:, head])
        assert torch.equal(states[0]["kept"], whole["kept"])


def _recorded(into: list[torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def all_heads(x: torch.Tensor) -> torch.Tensor:
        into.append(x)
        return x

    return all_heads


def _instead(joined: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda _: joined


@pytest.mark.parametrize(("budget", "sinks"), [(5, 4), (16, 4), (16, 0), (30, 4), (200, 4)])
def test_streaming_llm_reads_sinks_and_recent_tokens(budget: int, sinks: int) -> None:
    q, k = sequence(50, 0)
    found = reads(StreamingLLM(token_budget=budget, sink_size=sinks), q, k, 20)
    assert found == [oracle.streaming_reads(row + 1, budget, sinks) for row in range(20, 50)]
    assert all(len(one) == min(budget, row + 1) for row, one in zip(range(20, 50), found, strict=True))


def test_nominal_densities() -> None:
    assert Tova(token_capacity=64).nominal_density(256) == 0.25
    assert StreamingLLM(token_budget=512).nominal_density(256) == 1.0
    assert np.isclose(StreamingLLM(token_budget=128).nominal_density(1024), 0.125)
