"""Which calls Quest's CUDA launch serves, and how it is cut for a device. The launch itself is tested on GPUs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sparsekernels.bench import parity
from sparsekernels.cuda import quest_step
from sparsekernels.cuda.nvrtc import CompileError
from sparsekernels.cuda.quest_step import Kind, find_step
from sparsekernels.methods import quest

KIND = Kind(head_size=128, group=7, kv_heads=4, ratio=1, half=False, skip_empty=False)
ROOM = {8: 15, 6: 17, 4: 30, 3: 39, 2: 66, 1: 132}
"""Clusters of each size that have room on an H200, as its driver told."""


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """An H200 as far as these rules see it; yields the sizes for which a kernel was compiled."""
    compiled: list[int] = []

    def function(kind: Kind, cluster: int, device: int) -> SimpleNamespace:
        compiled.append(cluster)
        return SimpleNamespace(active_clusters=lambda cluster, block, shared_bytes: ROOM[cluster])

    monkeypatch.setattr(quest_step, "_function", function)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=50 << 20))
    quest_step._step.cache_clear()
    quest_step._room.cache_clear()
    yield compiled
    quest_step._step.cache_clear()
    quest_step._room.cache_clear()


@pytest.mark.parametrize(
    ("rows", "cluster"), [(1, 8), (15, 8), (16, 6), (18, 4), (32, 3), (40, 2), (66, 2), (67, 1), (132, 1)]
)
def test_the_largest_cluster_of_which_all_have_room(rows: int, cluster: int) -> None:
    step = quest_step._step(KIND, rows, 2048, 65, 0)
    assert step is not None
    assert step.cluster == cluster


@pytest.mark.parametrize("rows", [0, 133])
def test_rows_that_have_no_room_are_left_to_triton(rows: int) -> None:
    assert quest_step._step(KIND, rows, 2048, 65, 0) is None


def test_sequences_whose_pages_do_not_fit_in_shared_memory_are_left_to_triton() -> None:
    assert quest_step._step(KIND, 32, 20_000, 65, 0) is not None
    assert quest_step._step(KIND, 32, 30_000, 65, 0) is None


@pytest.mark.parametrize(
    ("rows", "width", "call"), [(32, 65, True), (64, 65, True), (128, 65, False), (32, 257, False)]
)
def test_pages_are_called_ahead_where_the_cache_holds_them(rows: int, width: int, call: bool) -> None:
    step = quest_step._step(KIND, rows, 2048, width, 0)
    assert step is not None
    assert step.call is call


def test_a_source_that_cannot_be_compiled_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(kind: Kind, cluster: int, device: int) -> None:
        raise CompileError("quest_step.cu: no libnvrtc")

    monkeypatch.setattr(quest_step, "_function", refuse)
    for _ in range(2):
        assert quest_step._step(KIND, 32, 2048, 65, 0) is None
    assert [record.message for record in caplog.records] == [
        "Quest's step in one launch is not to be had here, four launches serve: quest_step.cu: no libnvrtc"
    ]


def test_one_kernel_is_compiled_to_ask_and_one_to_run(device: list[int]) -> None:
    quest_step._step(KIND, 32, 2048, 65, 0)
    assert set(device) == {1, 3}


def test_the_launch_passes_what_the_kernel_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(quest_step.__file__).with_suffix(".cu").read_text()
    parameters = re.search(r"quest_step\(\n(.*?)\) \{", source, re.DOTALL)
    assert parameters is not None
    names = {"i64": "l", "int": "i", "float": "f"}
    kinds = ["p" if "*" in one else names[one.split()[0]] for one in parameters[1].split(",")]
    assert "".join(kinds) == quest_step.SIGNATURE
    launched: list[list[object]] = []
    function = SimpleNamespace(launch=lambda grid, block, arguments, **options: launched.append(arguments))
    kv, seq_lens = parity.random_cache([40, 20], (4, 2, 64), 32, "cpu", torch.bfloat16)
    q, store = torch.zeros(2, 4, 64, dtype=torch.bfloat16), quest.new_store(kv.keys.shape[0], 32, 16, kv.keys)
    step = quest_step.Step(function, cluster=8, padded_pages=32, width=3, shared_bytes=1, call=True)  # type: ignore[arg-type]
    step(q, kv, store, seq_lens, seq_lens, torch.zeros_like(q), scale=0.125)
    (arguments,) = launched
    assert len(arguments) == len(kinds)
    assert arguments[-5:-1] == [kv.block_table.shape[1] * 2, 32, 3, 1]
    assert arguments[8:12] == [0, 0, 0, 0]


def test_a_cpu_is_left_to_triton() -> None:
    kv, seq_lens = parity.random_cache([40, 20], (4, 2, 64), 16, "cpu", torch.bfloat16)
    store = torch.zeros(kv.keys.shape[0], 2, 2, 64, dtype=torch.bfloat16)
    q = torch.zeros(2, 4, 64, dtype=torch.bfloat16)
    assert find_step(q, kv, store, seq_lens, torch.full_like(seq_lens, 32), page_size=16, max_budget=32) is None
