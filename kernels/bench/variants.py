"""Times variants of the decode kernels side by side on this GPU, each checked against the one in use.

`python kernels/bench/variants.py [--seconds 100] [--output FILE]`. Kernels are compiled
first by several processes at once. A variant that fails is named with its error and the rest goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from sparsekernels import fused_decode
from sparsekernels.attend import triton_decode
from sparsekernels.attend.triton_decode import DecodeShape
from sparsekernels.attend.triton_quest import StepShape, quest_step
from sparsekernels.bench import decode_cost
from sparsekernels.bench.inputs import QWEN_7B
from sparsekernels.bench.timing import graph_us
from sparsekernels.index import quest as quest_index
from sparsekernels.methods import quest

PAGE = 16
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPE = torch.bfloat16 if CUDA else torch.float32
ATTEND = [
    DecodeShape(128, 4, 2, 256), DecodeShape(128, 4, 3, 256), DecodeShape(128, 4, 3, 396),
    DecodeShape(128, 4, 3, 128, 1), DecodeShape(64, 4, 5, 128, 1), DecodeShape(64, 4, 5, 256),
    DecodeShape(64, 8, 7, 64, 1), DecodeShape(64, 8, 5, 128, 1),
    DecodeShape(64, 8, 5, 256), DecodeShape(64, 4, 9, 64, 1), DecodeShape(128, 8, 3, 128, 1),
]  # fmt: skip
WIDE = [None, (32, 3, 4), (32, 4, 4), (64, 3, 4), (16, 4, 4), (32, 4, 2), (64, 3, 8)]
STEPS = [
    StepShape(256, 64, 8, 5), StepShape(128, 64, 8, 5), StepShape(64, 64, 8, 7), StepShape(128, 128, 8, 3),
    StepShape(128, 64, 16, 5), StepShape(256, 64, 4, 3), StepShape(132 * 4, 64, 4, 3),
]  # fmt: skip
QUEST = [(32768, 8, 1024), (32768, 8, 4096), (131072, 8, 1024), (32768, 32, 1024), (32768, 1, 1024), (32768, 16, 1024)]
KEPT = [(32768, 32, 4096), (32768, 8, 4096), (131072, 8, 12800)]
KEPT_SHAPES = [
    *ATTEND, DecodeShape(128, 4, 2, 1024), DecodeShape(128, 4, 2, 132, 1), DecodeShape(128, 8, 5, 132, 1),
    DecodeShape(64, 4, 7, 132, 1), DecodeShape(64, 8, 7, 132, 1), DecodeShape(64, 8, 9, 132, 1),
    DecodeShape(64, 4, 5, 264, 1), DecodeShape(128, 4, 3, 264, 1), DecodeShape(64, 4, 5, 396),
    DecodeShape(128, 4, 3, 1024), DecodeShape(64, 8, 5, 528),
]  # fmt: skip
START = time.monotonic()
RESULTS: list[dict[str, Any]] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=100)
    parser.add_argument("--output")
    parser.add_argument("--compile", help="share i/n of the kernels to compile, and no times")
    parser.add_argument("--processes", type=int, default=12)
    arguments = parser.parse_args()
    if arguments.compile:
        share, of = map(int, arguments.compile.split("/"))
        work = list(_compile_work())
        for job in work[share::of]:
            _try("compile", job)
        return
    if CUDA:
        _compile_all(arguments.processes)
    _decode(arguments.seconds)
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(RESULTS, indent=1))


def _say(*words: object) -> None:
    print(f"{time.monotonic() - START:6.1f}", *words, flush=True)


def _try(name: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        _say(name, "FAILED:", type(error).__name__, str(error)[:160].replace("\n", " "))
        return None


def _compile_all(processes: int) -> None:
    command = [sys.executable, __file__, "--compile"]
    running = [subprocess.Popen([*command, f"{i}/{processes}"]) for i in range(processes)]
    codes = [p.wait() for p in running]
    _say("compiled, exit codes", sorted(set(codes)))


def _compile_work() -> Iterator[Callable[[], Any]]:
    for case in QUEST:
        yield partial(_warm_quest, case, list(_quest_variants(case))[:3])
        for part in (slice(3, 8), slice(8, 13), slice(13, 18), slice(18, 23), slice(23, None)):
            yield partial(_warm_quest, case, list(_quest_variants(case))[part])
    for case in KEPT:
        yield partial(_warm_kept, case)


def _time(calls: list[Callable[[], Any]]) -> float:
    if not CUDA:
        calls[0]()
        return 0.0
    return graph_us(calls, repeat=10)


# ---------------------------------------------------------------------------------------------------------------------
# Decode.


class QuestCase:
    def __init__(self, length: int, batch: int, budget: int, layers: int | None = None) -> None:
        self.layers = layers or decode_cost.layers_for(batch, length)
        heads, kv_heads, d = QWEN_7B
        self.budget, self.rows, self.length = budget, batch * kv_heads, length
        self.caches = _caches(batch, length, self.layers)
        make = partial(torch.randn, device=DEVICE, dtype=DTYPE)
        self.stores = [make(c.keys.shape[0], kv_heads, 2, d) for c in self.caches]
        self.q = [make(batch, heads, d) for _ in self.caches]
        self.out = torch.empty_like(self.q[0])
        self.lens = torch.full((batch,), length - 5, dtype=torch.int32, device=DEVICE)
        self.budgets = torch.full((batch,), budget, dtype=torch.int32, device=DEVICE)

    @property
    def bound(self) -> float:
        d = QWEN_7B[2]
        return self.rows * (self.length / PAGE * 4 * d + self.budget * 4 * d) / 4.3e12 * 1e6

    def select(self, i: int) -> quest.PageLists:
        return fused_decode.select(
            self.q[i], self.stores[i], self.caches[i].block_table, self.lens, self.budgets, page_size=PAGE,
            cache_page=PAGE, max_budget=self.budget,
        )  # fmt: skip

    def attend(self, shape: DecodeShape, lists: quest.PageLists, i: int, scratch: Any) -> None:
        c = self.caches[i]
        triton_decode.decode_lists(
            self.q[i], c.keys, c.values, lists.pages, lists.lengths, page_size=PAGE, max_tokens=self.budget + PAGE,
            scale=128**-0.5, out=self.out, scratch=scratch, shape=shape,
        )  # fmt: skip

    def scratch(self, shape: DecodeShape) -> Any:
        splits = triton_decode.num_splits(self.rows, self.budget + PAGE, shape)
        return triton_decode.new_scratch(self.rows, splits, 7, 128, self.out.device)

    def step(self, shape: StepShape, i: int) -> None:
        c = self.caches[i]
        quest_step(
            self.q[i], self.stores[i], c.keys, c.values, c.block_table, self.lens, self.budgets, page_size=PAGE,
            max_budget=self.budget, scale=128**-0.5, out=self.out, shape=shape,
        )  # fmt: skip


def _caches(batch: int, length: int, layers: int) -> Any:
    if CUDA:
        return decode_cost._caches(batch, length, layers)
    from sparsekernels.kvcache import KeyValues

    pages, made = batch * (length // PAGE), []
    for _ in range(layers):
        cache = torch.randn(pages, 2, PAGE, *QWEN_7B[1:], dtype=DTYPE)
        made.append(KeyValues(cache[:, 0], cache[:, 1], torch.randperm(pages).view(batch, -1).to(torch.int32)))
    return made


def _quest_variants(case: tuple[int, int, int]) -> Iterator[tuple[str, Any]]:
    del case
    for wide in WIDE:
        yield f"select, bounds {wide or 'head by head'}", (wide, None)
    for shape in ATTEND:
        yield f"select+attend {shape}", (WIDE[1], shape)
    for wide in (None, WIDE[1]):
        for step in STEPS if wide else STEPS[:2]:
            yield f"step {step}, bounds {wide or 'head by head'}", (wide, step)


def _quest_call(x: QuestCase, variant: Any) -> Callable[[int], None]:
    quest_index.WIDE, shape = variant
    if isinstance(shape, StepShape):
        return partial(x.step, shape)
    if shape is None:
        return lambda i: x.select(i)
    scratch = x.scratch(shape)
    return lambda i: x.attend(shape, x.select(i), i, scratch)


def _warm_quest(case: tuple[int, int, int], variants: list[tuple[str, Any]]) -> None:
    x = QuestCase(*case, layers=1)
    for name, variant in variants:
        _try(name, lambda v=variant: _quest_call(x, v)(0))
    if CUDA:
        torch.cuda.synchronize()


def _warm_kept(case: tuple[int, int, int]) -> None:
    for shape in KEPT_SHAPES:
        _try(str(shape), lambda s=shape: KeptCase(*case, layers=1)(s)(0))


def _decode(until: float) -> None:
    for case in QUEST:
        x = QuestCase(*case)
        _say(f"Quest {case}, bound {x.bound:.1f} us, dense", _dense_us(x))
        expected = _expected(x)
        for name, variant in _quest_variants(case):
            if time.monotonic() - START > until:
                _say("out of time")
                return
            _try(name, partial(_one_quest, x, case, name, variant, expected))
        del x
        torch.cuda.empty_cache()
    for case in KEPT:
        make = KeptCase(*case)
        dense = _time([partial(make.dense, i) for i in range(make.layers)]) if CUDA else 0.0
        _say(f"kept {case} dense {dense:.1f} us")
        first = None
        for shape in KEPT_SHAPES:
            first = _try(str(shape), partial(_one_kept, make, case, shape, dense, first))
        del make
        torch.cuda.empty_cache()


def _dense_us(x: QuestCase) -> str:
    if not CUDA:
        return "-"
    call = partial(decode_cost._dense, lens=x.lens, length=x.length, out=x.out)
    return f"{_time([partial(call, x.q[i], x.caches[i]) for i in range(x.layers)]):.1f}"


def _expected(x: QuestCase) -> torch.Tensor:
    """The definition's pages, attended to by the kernel in use."""
    lists = quest.select(
        x.q[0], x.stores[0], x.caches[0].block_table, x.lens, x.budgets, page_size=PAGE, cache_page=PAGE,
        max_budget=x.budget,
    )  # fmt: skip
    x.attend(ATTEND[0], lists, 0, x.scratch(ATTEND[0]))
    fused = _try("fused select", lambda: x.select(0))
    if fused is not None:
        used = torch.arange(fused.pages.shape[2], device=DEVICE) < fused.counts[..., None]
        _say("pages unlike the definition's:", int(((fused.pages != lists.pages) & used).sum()))
    return x.out.clone()


def _one_quest(x: QuestCase, case: Any, name: str, variant: Any, expected: torch.Tensor) -> None:
    call = _quest_call(x, variant)
    outs = []
    for _ in range(2):
        x.out.fill_(float("nan"))
        call(0)
        outs.append(x.out.clone())
    selects = variant[1] is None
    off = 0.0 if selects else float((outs[0].float() - expected.float()).abs().max())
    same = selects or torch.equal(*outs)
    us = _time([partial(call, i) for i in range(x.layers)])
    flag = "" if off < 0.01 and same else f"  WRONG off={off:.3g} repeat={same}"
    _say(f"  {us:7.1f} us {us / x.bound:5.2f}x {name}{flag}")
    RESULTS.append(dict(kind="quest", case=case, name=name, us=us, bound=x.bound, off=off, same=same))


class KeptCase:
    def __init__(self, length: int, batch: int, capacity: int, layers: int | None = None) -> None:
        generated = 128 if CUDA else 32
        self.layers = layers or decode_cost.layers_for(batch, length)
        self.caches = _caches(batch, length, self.layers)
        heads, kv_heads, d = QWEN_7B
        self.q = [torch.randn(batch, heads, d, device=DEVICE, dtype=DTYPE) for _ in self.caches]
        self.out = torch.empty_like(self.q[0])
        self.kept = [decode_cost._kept(c, batch, length - generated, capacity) for c in self.caches]
        self.lens = torch.full((batch,), length, dtype=torch.int32, device=DEVICE)
        self.most, self.rows = capacity + generated, batch * kv_heads
        self.short = torch.full((batch,), self.most, dtype=torch.int32, device=DEVICE)

    def dense(self, i: int) -> None:
        decode_cost._dense(self.q[i], self.caches[i], self.short, self.most, self.out)

    def __call__(self, shape: DecodeShape) -> Callable[[int], None]:
        splits = triton_decode.num_splits(self.rows, self.most, shape)
        scratch = triton_decode.new_scratch(self.rows, splits, 7, 128, self.out.device)

        def call(i: int) -> None:
            kv, kept = self.caches[i], self.kept[i]
            triton_decode.decode_lists(
                self.q[i], kv.keys, kv.values, kept.slots, kept.counts, page_size=1, max_tokens=self.most,
                scale=128**-0.5, out=self.out, generated=(kv.block_table, self.lens, kept.prompt_lengths),
                scratch=scratch, shape=shape,
            )  # fmt: skip

        return call


def _one_kept(make: KeptCase, case: Any, shape: DecodeShape, dense: float, first: Any) -> Any:
    call = make(shape)
    outs = []
    for _ in range(2):
        make.out.fill_(float("nan"))
        call(0)
        outs.append(make.out.clone())
    first = outs[0] if first is None else first
    off, same = float((outs[0].float() - first.float()).abs().max()), torch.equal(*outs)
    us = _time([partial(call, i) for i in range(make.layers)])
    flag = "" if off < 0.01 and same else f"  WRONG off={off:.3g} repeat={same}"
    _say(f"  {us:7.1f} us {dense / max(us, 1e-9):5.2f} of dense {shape}{flag}")
    RESULTS.append(dict(kind="kept", case=case, name=str(shape), us=us, dense=dense, off=off, same=same))
    return first


if __name__ == "__main__":
    if not CUDA:
        QUEST[:], KEPT[:], WIDE[:] = [(512, 2, 64)], [(256, 2, 64)], WIDE[:2]
        ATTEND[:], KEPT_SHAPES[:], STEPS[:] = ATTEND[:2], KEPT_SHAPES[:2], [StepShape(16, 64, 8, 5)]
    main()
