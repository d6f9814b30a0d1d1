"""Times variants of the decode and prefill kernels side by side on this GPU, each checked against the one in use.

`python kernels/bench/variants.py [--only decode|prefill] [--seconds 230] [--output FILE]`. Kernels are compiled
first by several processes at once. A variant that fails is named with its error and the rest goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from sparsekernels import fused_decode, fused_prefill
from sparsekernels.attend import flash, triton_decode
from sparsekernels.attend.triton_decode import DecodeShape
from sparsekernels.attend.triton_quest import StepShape, quest_step
from sparsekernels.bench import decode_cost, prefill_cost
from sparsekernels.bench.inputs import QWEN_7B, random_inputs
from sparsekernels.bench.timing import back_to_back_ms, graph_us
from sparsekernels.index import quest as quest_index
from sparsekernels.index.estimate import estimate_sums
from sparsekernels.kvcache import contiguous
from sparsekernels.methods import quest
from sparsekernels.prefill import sparse_prefill
from sparsekernels.virtual import virtual_cache

PAGE = 16
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPE = torch.bfloat16 if CUDA else torch.float32
ATTEND = [
    DecodeShape(128, 4, 2, 256), DecodeShape(64, 4, 3, 256), DecodeShape(64, 4, 5, 256), DecodeShape(64, 4, 5, 512),
    DecodeShape(32, 4, 5, 512), DecodeShape(32, 4, 7, 512), DecodeShape(128, 8, 2, 256), DecodeShape(64, 8, 5, 256),
]  # fmt: skip
BOUNDS = [(64, 4, 3), (64, 2, 3), (32, 4, 3), (64, 1, 2), (128, 2, 2), (32, 2, 3)]
STEPS = [
    StepShape(one_launch=False), StepShape(one_launch=True), StepShape(one_launch=True, stages=5),
    StepShape(one_launch=True, programs=512, warps=4), StepShape(one_launch=True, stages=5, tile=32),
    StepShape(one_launch=True, programs=132, warps=16), StepShape(one_launch=False, programs=512, stages=5),
]  # fmt: skip
QUEST = [(32768, 8, 1024), (32768, 8, 4096), (131072, 8, 1024), (32768, 32, 1024), (32768, 1, 1024), (32768, 16, 1024)]
KEPT = [(32768, 32, 4096), (32768, 8, 4096), (131072, 8, 12800)]
KEPT_SHAPES = [
    *ATTEND, DecodeShape(64, 4, 5, 1024), DecodeShape(64, 4, 3, 1024), DecodeShape(32, 4, 7, 1024),
    DecodeShape(128, 4, 2, 1024), DecodeShape(128, 4, 3, 396),
]  # fmt: skip
SUMS: list[dict[str, Any]] = [
    {}, {"carry": True}, {"carry": True, "sum_registers": 128, "sum_stages": 1}, {"carry": True, "skew_axis": 1},
    {"carry": True, "sum_heads": 7}, {"carry": True, "sum_heads": 7, "skew_axis": 1},
    {"carry": True, "sum_heads": 7, "sum_registers": 128}, {"carry": True, "sum_stages": 3},
    {"carry": True, "sum_registers": None}, {"carry": True, "skew_axis": 1, "sum_registers": 128, "sum_stages": 1},
    {"carry": True, "sum_block": 32, "sum_registers": 96}, {"carry": True, "sum_warps": 2, "sum_registers": None},
]  # fmt: skip
START = time.monotonic()
RESULTS: list[dict[str, Any]] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("all", "decode", "prefill"), default="all")
    parser.add_argument("--seconds", type=float, default=230)
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
    if arguments.only != "prefill":
        _decode(arguments.seconds * 0.5)
    if arguments.only != "decode":
        _prefill(arguments.seconds)
        if CUDA and time.monotonic() - START < arguments.seconds - 40:
            _try("FlexAttention", _flex_attention)
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
        for part in (slice(3, 9), slice(9, 14), slice(14, None)):
            yield partial(_warm_quest, case, list(_quest_variants(case))[part])
    for case in KEPT:
        yield partial(_warm_kept, case)
    for options in SUMS:
        yield partial(_warm_sums, options)


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
        self.counters = torch.zeros(2, self.rows, dtype=torch.int32, device=DEVICE)

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
            max_budget=self.budget, scale=128**-0.5, out=self.out, shape=shape, counters=self.counters,
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
    for early in (False, True):
        yield f"select+attend {ATTEND[0]} early={early}", (BOUNDS[0], ATTEND[0], early)
    for shape in ATTEND[1:]:
        yield f"select+attend {shape}", (BOUNDS[0], shape, True)
    for bounds in BOUNDS[1:]:
        yield f"select {bounds}", (bounds, None, True)
    for step in STEPS:
        yield f"step {step}", step


def _quest_call(x: QuestCase, variant: Any) -> Callable[[int], None]:
    if isinstance(variant, StepShape):
        return partial(x.step, variant)
    (chunk, tiles, stages), shape, early = variant
    quest_index.CHUNK, quest_index.TILES, quest_index.STAGES = chunk, tiles, stages
    triton_decode.EARLY = early
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
    selects = not isinstance(variant, StepShape) and variant[1] is None
    off = 0.0 if selects else float((outs[0].float() - expected.float()).abs().max())
    same = selects or torch.equal(*outs)
    us = _time([partial(call, i) for i in range(x.layers)])
    x.counters.zero_()
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
        triton_decode.EARLY = True
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


# ---------------------------------------------------------------------------------------------------------------------
# Prefill.


def _warm_sums(options: dict[str, Any]) -> None:
    x = random_inputs(512, QWEN_7B, 1, DEVICE)
    estimate_sums(x.q, virtual_cache(contiguous(x.k, x.k)), 512, 256, 128**-0.5, **options)


def _ms(call: Callable[[], Any]) -> float:
    if not CUDA:
        call()
        return 0.0
    return back_to_back_ms(call)


def _sums(length: int, x: Any) -> None:
    cache, first = virtual_cache(contiguous(x.k, x.v)), None
    for options in SUMS:
        call = partial(estimate_sums, x.q, cache, length, 256, 128**-0.5, **options)
        found = _try(str(options), lambda c=call: (c(), c()))
        if found is None:
            continue
        first = first or found[0]
        off = float(((found[0].both - first.both).abs() / first.both.abs().clamp(min=1e-6)).max())
        ms = _ms(call)
        _say(f"  sums {length} {ms:7.3f} ms off {off:.1e} repeat {torch.equal(found[0].both, found[1].both)} {options}")
        RESULTS.append(dict(kind="sums", length=length, name=str(options), ms=ms, off=off))


def _switch(falling: bool, aside: bool, narrow: bool, bulk: bool, workspace: int = 1) -> None:
    fused_prefill.FALLING, fused_prefill.ASIDE, fused_prefill.NARROW = falling, aside, narrow
    flash.BULK, fused_prefill.WORKSPACE_BYTES = bulk, workspace << 30


def _prefill(until: float) -> None:
    cases = list(itertools.product((32768, 131072, 65536), ("random", "clustered"))) if CUDA else [(256, "random")]
    for length, kind in cases:
        if time.monotonic() - START > until - 25:
            _say("out of time")
            return
        x = prefill_cost.INPUTS[kind](length, QWEN_7B, 5, DEVICE)
        x = type(x)(*(y.to(DTYPE) for y in x))
        if kind == "random":
            _try("sums", partial(_sums, length, x))
        _try(f"prefill {length}", partial(_prefill_variants, x, length, kind))
        torch.cuda.empty_cache()


def _prefill_variants(x: Any, length: int, kind: str) -> None:
    kv, out = contiguous(x.k, x.v), torch.empty_like(x.q)
    dense = _ms(lambda: flash.dense_prefill(x.q, virtual_cache(kv), length, 128**-0.5, out)) if CUDA else 0.0
    _say(f"{length} {kind} dense {dense:.2f} ms")
    executor = "flash" if CUDA else "triton"
    switches = [(False, False, False, False), (True, False, False, False), (True, True, True, False)]
    for method in prefill_cost.methods_at(x.q, kv, length, 0.19):
        lengths = fused_prefill.list_lengths(x.q, kv, method, length=length)
        density, tiles = prefill_cost._density(lengths, length), prefill_cost._tile_density(lengths, length)
        more = [(True, True, True, True)] if getattr(method, "block_size", 0) == 128 else [(True, True, True, False, 3)]
        words, first = [], None
        for switch in [*switches, *more]:
            _switch(*switch)
            call = partial(sparse_prefill, x.q, kv, method, length=length, row_block=128, executor=executor, out=out)
            if _try(f"{method.name} {switch}", call) is None:
                continue
            result = out.clone()
            first = result if first is None else first
            right = torch.equal(first, result) or f"off {float((first.float() - result.float()).abs().max()):.2g}"
            ms = _ms(call)
            words.append(f"{ms:.2f} (f {dense * density / max(ms, 1e-9):.3f}{'' if right is True else ' ' + right})")
            RESULTS.append(dict(kind="prefill", length=length, inputs=kind, method=repr(method), switch=switch, ms=ms,
                                dense=dense, density=density, tiles=tiles))  # fmt: skip
        index = _ms(partial(fused_prefill.list_lengths, x.q, kv, method, length=length))
        _say(f"  {method.name} {getattr(method, 'block_size', '')} density {density:.3f} tiles {tiles:.3f}", *words,
             f"index {index:.2f}")  # fmt: skip
        if method.name != "block-sparse" and kind == "random" and length != 65536 and CUDA:
            _try("profile", partial(_profile, call))


def _flex_attention() -> None:
    x = random_inputs(32768, QWEN_7B, 5)
    kv = contiguous(x.k, x.v)
    method = prefill_cost.methods_at(x.q, kv, 32768, 0.19)[1]
    start = time.monotonic()
    ms = prefill_cost._flex_attention_ms(x, method, 32768)
    _say(f"FlexAttention 32768 random {method.name} {method.top_blocks} x {method.block_size}: {ms:.2f} ms, "
         f"{time.monotonic() - start:.1f} s with its compilation")  # fmt: skip


def _profile(call: Callable[[], Any]) -> None:
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as record:
        call()
        torch.cuda.synchronize()
    rows = sorted(record.key_averages(), key=lambda e: -e.self_device_time_total)[:9]
    _say("    us:", ", ".join(f"{e.key[:28]} {e.self_device_time_total:.0f}" for e in rows))


if __name__ == "__main__":
    if not CUDA:
        QUEST[:], KEPT[:], SUMS[:] = [(512, 2, 64)], [(256, 2, 64)], SUMS[:2]
        ATTEND[:], KEPT_SHAPES[:], BOUNDS[:] = ATTEND[:2], KEPT_SHAPES[:2], BOUNDS[:2]
        STEPS[:] = [replace(STEPS[0], programs=16)]
    main()
