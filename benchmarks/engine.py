"""Engine speed: stock vLLM, the plugin's dense path and every method, side by side in one run; prints and writes JSON.

    python -m benchmarks.engine --model FOLDER --output result.json
    python -m benchmarks.engine --shapes qwen2.5-7b --lengths 8192 32768 131072     (random weights of real shapes)

Parts, each guarded and time-boxed, so that what was measured is kept when something fails:
    stock       vLLM without the plugin, dense
    plugin      the same engine with the plugin: dense and all methods
    reference   what the reference implementation does: eager, one request at a time; whole samples alone
Prompts are random token ids. Prefill figures are of uncached prompts; decode figures are of requests that share a
cached dense prefill, so that only decoding is timed; samples are whole uncached ones with the engine full. Ratios come
last: against stock dense (or the plugin's), and samples an hour against the reference mode.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks import decode_grid
from benchmarks.device_busy import DeviceBusy
from benchmarks.engine_cases import SHAPES, methods_for, model_folder
from benchmarks.engine_figures import LONG_TOKENS, Bench, Run
from benchmarks.engine_ratios import ratio_lines
from workers.engine import EngineSpec


def spec_of(run: Run, folder: str, **changes: Any) -> EngineSpec:
    options = run.options
    own = {"ignore_eos": True, **json.loads(options.engine_options), **changes.pop("options", {})}
    base: dict[str, Any] = dict(
        model=folder, max_model_len=max(options.lengths) + 1024,
        max_in_flight=max(*options.in_flight, options.samples_in_flight or 1),
        load_format="auto" if options.model else "dummy", dtype=options.dtype, kv_cache_gib=options.kv_cache_gib,
    )  # fmt: skip
    return EngineSpec(**(base | changes), options=own)


def cases(run: Run, wanted: Sequence[str] | None) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Dense and the wanted methods at every length; None: all methods."""
    for length in run.options.lengths:
        yield length, "dense", {}
        yield from ((length, n, m) for n, m in methods_for(length).items() if wanted is None or n in wanted)


def measure(run: Run, part: str, spec: EngineSpec, wanted: Sequence[str] | None) -> None:
    """All figures of one engine, prefill before decode, short lengths first."""
    bench = Bench(run, part, spec)
    try:
        for length, name, method in cases(run, wanted):
            if bench.is_dead and time.monotonic() < run.deadline:
                bench.close()
                bench = Bench(run, part, spec)
            measure_case(run, bench, length, name, method)
        if part == "plugin" and run.options.grid_length:
            run.guarded("decode grid", lambda: measure_grid(run, bench))
    finally:
        bench.close()


def measure_case(run: Run, bench: Bench, length: int, name: str, method: dict[str, Any]) -> None:
    """The figures of one method at one length."""
    label = f"{bench.part} {name} {length}"
    options = run.options
    in_flight = [n for n in options.in_flight if n <= bench.engine.spec.max_in_flight]
    alone = bench.part == "reference"  # a campaign's samples are what that mode is compared by
    votes = "compress" in method and length <= LONG_TOKENS  # beyond, a vote is lost in the dense prefill's time
    if not alone and ("prefill" in method or not method or votes):
        run.guarded(f"{label} prefill", lambda: bench.prefill(length, name, method))
    if not alone and "prefill" not in method:
        for n in in_flight:
            run.guarded(f"{label} decode {n}", lambda: bench.decode(length, n, name, method))  # noqa: B023
    every = not options.sample_methods or length in options.all_sample_lengths
    if length in options.sample_lengths and (every or name in options.sample_methods):
        run.guarded(f"{label} samples", lambda: bench.samples(length, name, method))


def measure_grid(run: Run, bench: Bench) -> None:
    """Sixteen decode cells of a prompt over a shared prefill against as many separate runs (`frontier bench grid`)."""
    options = argparse.Namespace(
        length=run.options.grid_length, prompts=1, output_tokens=64, vocabulary=run.options.vocabulary
    )
    grid = decode_grid.Grid(bench.engine, options)
    grid.warm_up()
    with DeviceBusy() as busy:
        found = decode_grid.measure(grid, options, run.deadline, busy)
    run.record(part=bench.part, figure="grid", ratio=found["separate_seconds"] / found["shared_seconds"], **found)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="frontier bench engine", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--model", help="folder with weights; without it, random weights of --shapes")
    parser.add_argument("--shapes", choices=sorted(SHAPES), default="qwen2.5-7b")
    parser.add_argument("--layers", type=int, help="fewer layers than the shapes have, for a quick look")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 32768, 131072])
    parser.add_argument("--sample-lengths", type=int, nargs="*", default=[8192], help="lengths of whole-sample runs")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--methods", nargs="*", help="only these beside dense; default all")
    parser.add_argument("--reference-methods", nargs="*", default=[], help="those of the reference mode; default none")
    parser.add_argument("--sample-methods", nargs="*", default=[], help="whole samples of these alone; default all")
    parser.add_argument("--all-sample-lengths", type=int, nargs="*", default=[], help="lengths at which all methods do")
    parser.add_argument("--sample-tokens", type=int, default=256, help="output tokens of a whole sample")
    parser.add_argument("--samples-in-flight", type=int, help="whole samples together; default the most in flight")
    parser.add_argument("--grid-length", type=int, help="also the decode grid of a prompt of this length")
    parser.add_argument("--seconds", type=float, default=1800, help="no new measurement begins after this")
    parser.add_argument("--distinct-tokens", type=int, default=524288, help="cached prompt tokens in decode figures")
    parser.add_argument("--vocabulary", type=int, default=40000)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--kv-cache-gib", type=float)
    parser.add_argument("--engine-options", default="{}", help="JSON of further vLLM engine arguments")
    parser.add_argument("--output", help="JSON file, written after every figure")
    options = parser.parse_args(argv)
    options.distinct_prompts = lambda length: max(1, options.distinct_tokens // length)
    return options


def _stock(run: Run, folder: str) -> None:
    measure(run, "stock", spec_of(run, folder, options={"plugin": False}), [])


def _plugin(run: Run, folder: str) -> None:
    measure(run, "plugin", spec_of(run, folder), run.options.methods)


def _reference(run: Run, folder: str) -> None:
    spec = spec_of(run, folder, max_in_flight=1, options={"enforce_eager": True, "async_scheduling": False})
    measure(run, "reference", spec, run.options.reference_methods)


PARTS: dict[str, Callable[[Run, str], None]] = {"stock": _stock, "plugin": _plugin, "reference": _reference}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 unless nothing at all was measured."""
    options = parse(sys.argv[1:] if argv is None else argv)
    run = Run(options, time.monotonic() + options.seconds)
    with tempfile.TemporaryDirectory() as scratch:
        folder = model_folder(options, scratch)
        for part in options.parts:
            run.guarded(part, lambda: PARTS[part](run, folder))  # noqa: B023
    for line in ratio_lines(run.rows):
        print(line)
    for note in run.notes:
        print("note:", note)
    return 0 if run.rows else 1


if __name__ == "__main__":
    sys.exit(main())
