"""The fused choice of kept slots, in Triton's CPU interpreter, against SnapKV's and Ada-SnapKV's definition."""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by test_triton_kernels.py in a process with TRITON_INTERPRET=1", allow_module_level=True)

from sparsekernels.index import keep
from sparsekernels.methods import snapkv
from sparsekernels.parameters import AdaSnapKV, SnapKV

torch.set_num_threads(1)


@pytest.mark.parametrize("block", [16, 256])
@pytest.mark.parametrize("levels", [3, 1000])
@pytest.mark.parametrize("method", [
    SnapKV(token_capacity=40, local_size=9), SnapKV(token_capacity=500, local_size=9),
    AdaSnapKV(token_capacity=40, local_size=9), AdaSnapKV(token_capacity=40, local_size=9, pool_heads="rank"),
    AdaSnapKV(token_capacity=30, local_size=9, min_ratio=1.0),
    AdaSnapKV(token_capacity=150, local_size=9, min_ratio=0.0),
])  # fmt: skip
def test_kept_slots_are_those_of_the_definition(
    method: SnapKV | AdaSnapKV, levels: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep, "row_options", lambda size: {"BLOCK": block, "IN_REGISTERS": block >= size, "SCAN": 16})
    g = torch.Generator().manual_seed(levels)
    everyone = torch.randint(0, levels, (4, 130), generator=g).float()
    table = torch.randperm(9, generator=g).to(torch.int32)
    expected = snapkv.keep(everyone[1:3], method, lambda _: (everyone, 1))
    slots, counts = keep.keep_slots(everyone[1:3], method, table, 16, lambda _: (everyone, 1))
    assert torch.equal(counts, expected.counts)
    for head, count in enumerate(counts.tolist()):
        tokens = expected.tokens[head, :count]
        assert torch.equal(slots[head, :count], table[tokens // 16] * 16 + tokens % 16)


def test_nan_votes_write_nothing_beyond_the_list() -> None:
    smoothed = torch.full((2, 50), float("nan"))
    slots, counts = keep.keep_slots(smoothed, SnapKV(token_capacity=20, local_size=4), torch.arange(4).int(), 16)
    assert slots.shape == (2, 20)
    assert counts.tolist() == [20, 20]
