"""The decode grid of a prompt over one shared dense prefill, against one separate run a cell; prints the ratio.

    python -m benchmarks.decode_grid --output result.json                      (random weights of Qwen2.5-7B's shapes)
    python -m benchmarks.decode_grid --model FOLDER --length 32704 --prompts 4

Sixteen cells: dense, and Quest, SnapKV and Ada-SnapKV at five budgets each. Both ways use the same engine with the same
settings, every prompt under every cell, with the same number of output tokens:
    separate    one cell after the other, all its prompts in flight together; nothing is shared, so each prompt is
                prefilled sixteen times
    shared      all cells of all prompts at once; the prompt's dense prefill is read from the prefix cache
The time is the engine's wall clock, one device, kernels compiled before. Completions are compared; a second separate
run of the first cells in batches of another size shows how many differ for the batch's sake alone (zero in float32).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.device_busy import DeviceBusy
from benchmarks.engine_cases import SHAPES
from workers.engine import EngineSpec, GenerationFailure, GenerationRequest
from workers.failures import EngineError
from workers.vllm_engine import VllmEngine

COMPRESSIONS = (4, 8, 16, 32, 64)
WARM_UP_TOKENS = 24

Key = tuple[str, int]
"""A cell and the number of a prompt."""
Texts = dict[Key, tuple[int, ...]]


def cells(length: int) -> dict[str, dict[str, Any]]:
    """The sixteen cells by label, in wire form; budgets are shares of the prompt."""
    grid: dict[str, dict[str, Any]] = {"dense": {}}
    for compression in COMPRESSIONS:
        tokens = max(64, length // compression)
        grid[f"quest/{compression}"] = {"decode": {"name": "quest", "token_budget": tokens // 16 * 16}}
        for name in ("snapkv", "ada_snapkv"):
            kept = {"name": name, "token_capacity": tokens, "window": min(256, length // 8), "local_size": 32}
            grid[f"{name}/{compression}"] = {"compress": kept}
    return grid


class Grid:
    """One engine and the requests of all cells."""

    def __init__(self, engine: VllmEngine, options: argparse.Namespace) -> None:
        self._engine, self._options = engine, options
        self._ids = iter(range(10**9))
        self.cells = cells(options.length)

    def requests(self, names: Sequence[str], prompts: Sequence[int], group: str | None) -> Iterator[tuple[Key, Any]]:
        """Prompt by prompt, the cells in order: dense is first, and leaves its prefill."""
        for number in prompts:
            draw = random.Random(f"{self._options.length} {number}")
            prompt = draw.choices(range(100, self._options.vocabulary), k=self._options.length)
            for name in names:
                yield (name, number), {"prompt_token_ids": prompt, "method": self.cells[name], "cache_group": group}

    def run(self, wanted: Sequence[tuple[Key, Any]], num_tokens: int) -> tuple[Texts, float, int]:
        """Completions, wall-clock seconds, and prompt tokens that came from the cache. Raises EngineError."""
        started, keys, texts, num_cached = time.monotonic(), {}, {}, 0
        for key, request in wanted:
            name = str(next(self._ids))
            keys[name] = key
            self._engine.submit(GenerationRequest(request_id=name, max_tokens=num_tokens, **request))
        while keys:
            for result in self._engine.poll(0.2):
                if isinstance(result, GenerationFailure):
                    raise EngineError(f"{keys[result.request_id]}: {result.failure.message}")
                texts[keys.pop(result.request_id)] = result.token_ids
                num_cached += result.num_cached_tokens
        return texts, time.monotonic() - started, num_cached

    def warm_up(self) -> None:
        """Every kernel at the shapes of the run: a prompt of its own under all cells, together and dense alone."""
        few = min(WARM_UP_TOKENS, self._options.output_tokens)
        self.run(list(self.requests(list(self.cells), [-1], "warm up")), few)
        self.run(list(self.requests(list(self.cells)[:2], [-2], None)), few)


def measure(grid: Grid, options: argparse.Namespace, deadline: float, busy: DeviceBusy) -> dict[str, Any]:
    """Shared, then separate, cell by cell until the time is over; the ratio is of the cells that both ways did."""
    numbers, names = range(options.prompts), list(grid.cells)
    begun = time.time()
    shared, shared_seconds, cached = grid.run(list(grid.requests(names, numbers, "grid")), options.output_tokens)
    shared_busy, begun = busy.share(begun, time.time()), time.time()
    separate: Texts = {}
    by_cell: dict[str, float] = {}
    for name in names:
        if time.monotonic() > deadline:
            break
        texts, by_cell[name], _ = grid.run(list(grid.requests([name], numbers, None)), options.output_tokens)
        separate |= texts
        print(f"separate {name}: {by_cell[name]:.2f} s", flush=True)
    return {
        "cells": len(names),
        "prompts": options.prompts,
        "length": options.length,
        "output_tokens": options.output_tokens,
        "shared_seconds": shared_seconds,
        "shared_busy": shared_busy,
        "cached_share": cached / (options.length * options.prompts * len(names)),
        "separate_seconds": sum(by_cell.values()),
        "separate_busy": busy.share(begun, time.time()),
        "separate_cells": by_cell,
        "complete": len(by_cell) == len(names),
        "equal_completions": equal(separate, shared),
        "equal_tokens": equal_tokens(separate, shared),
        "equal_for_the_batchs_sake": _noise(grid, options, separate, deadline),
    }


def _noise(grid: Grid, options: argparse.Namespace, separate: Texts, deadline: float) -> float | None:
    """Share of completions that stay equal when cells run in twos, unshared: what the batch alone changes."""
    names = list(grid.cells)[:2]
    if time.monotonic() > deadline or any((name, 0) not in separate for name in names):
        return None
    texts, *_ = grid.run(list(grid.requests(names, range(options.prompts), None)), options.output_tokens)
    return equal(texts, separate)


def equal(one: Texts, other: Texts) -> float:
    """Share of the completions of `one` that are the same in `other`."""
    return sum(other.get(key) == text for key, text in one.items()) / max(1, len(one))


def equal_tokens(one: Texts, other: Texts) -> float:
    """Share of tokens before the first difference."""
    total = same = 0
    for key, text in one.items():
        pairs = list(zip(text, other.get(key, ()), strict=False))
        same += next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
        total += len(text)
    return same / max(1, total)


def engine_spec(options: argparse.Namespace, scratch: str) -> EngineSpec:
    folder = options.model
    if folder is None:
        config = dict(SHAPES[options.shapes])
        config["num_hidden_layers"] = options.layers or config["num_hidden_layers"]
        (Path(scratch) / "config.json").write_text(json.dumps(config))
        folder = scratch
    return EngineSpec(
        model=str(folder),
        dtype=options.dtype,
        max_model_len=options.length + options.output_tokens,
        load_format="auto" if options.model else "dummy",
        max_in_flight=options.in_flight,
        kv_cache_gib=options.kv_cache_gib,
        options={"ignore_eos": True, **json.loads(options.engine_options)},
    )


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="frontier bench grid", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--model", help="folder with weights; without it, random weights of --shapes")
    parser.add_argument("--shapes", choices=sorted(SHAPES), default="qwen2.5-7b")
    parser.add_argument("--layers", type=int, help="fewer layers than the shapes have, for a quick look")
    parser.add_argument("--length", type=int, default=32768, help="prompt tokens")
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=40000, help="prompts are random ids below this")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--kv-cache-gib", type=float)
    parser.add_argument("--engine-options", default="{}", help="JSON of further vLLM engine arguments")
    parser.add_argument("--seconds", type=float, default=600.0, help="no further cell begins after this")
    parser.add_argument("--output", type=Path, help="JSON file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when every cell was measured both ways, 1 when the time was over before."""
    options = parse(sys.argv[1:] if argv is None else argv)
    deadline = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as scratch, DeviceBusy() as busy:
        engine = VllmEngine(engine_spec(options, scratch))
        print(f"engine: {engine.facts.engine} on {engine.facts.device}, {engine.facts.load_seconds:.0f} s", flush=True)
        try:
            grid = Grid(engine, options)
            grid.warm_up()
            found = measure(grid, options, deadline, busy)
        finally:
            engine.close()
    found["ratio"] = found["separate_seconds"] / found["shared_seconds"] if found["complete"] else None
    found |= {"device": engine.facts.device, "versions": dict(engine.facts.versions), "command": " ".join(sys.argv)}
    for name, value in found.items():
        print(f"{name}: {value}", flush=True)
    if options.output:
        options.output.write_text(json.dumps(found, indent=1))
    return 0 if found["complete"] else 1


if __name__ == "__main__":
    sys.exit(main())
