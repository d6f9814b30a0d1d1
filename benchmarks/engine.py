"""Engine speed: stock vLLM, the plugin's dense path and every method, side by side in one run; prints and writes JSON.

    python -m benchmarks.engine --model FOLDER --output result.json
    python -m benchmarks.engine --shapes qwen2.5-7b --lengths 8192 32768 131072     (random weights of real shapes)

Parts, each guarded and time-boxed, so that what was measured is kept when something fails:
    stock       vLLM without the plugin, dense
    plugin      the same engine with the plugin: dense and all methods
    reference   what the reference implementation does: eager, one request at a time
Prompts are random token ids. Prefill figures are of uncached prompts; decode figures are of requests that share a
cached dense prefill, so that only decoding is timed.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.engine_cases import SHAPES, methods_for
from workers.engine import EngineSpec, Generation, GenerationFailure, GenerationRequest
from workers.failures import EngineError
from workers.vllm_engine import VllmEngine

PREFILL_RUNS = 2
LONG_TOKENS = 65536
"""Prompts beyond this are prefilled once, after the warm-up."""
DECODE_TOKENS = 64


@dataclass(slots=True)
class Run:
    """Everything of one invocation: options, the clock and the rows so far."""

    options: argparse.Namespace
    deadline: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def record(self, **row: Any) -> None:
        self.rows.append(row)
        shown = (f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items())
        print(" ".join(shown), flush=True)
        self.save()

    def save(self) -> None:
        if self.options.output:
            content = {"environment": environment(), "rows": self.rows, "notes": self.notes}
            Path(self.options.output).write_text(json.dumps(content, indent=1))

    def guarded(self, name: str, work: Callable[[], None]) -> None:
        """Do a part if there is time; note its failure and go on."""
        if time.monotonic() > self.deadline:
            self.notes.append(f"{name}: left out, time is up")
        else:
            try:
                work()
            except Exception as error:
                traceback.print_exc()
                self.notes.append(f"{name}: {type(error).__name__}: {error}")
        self.save()


def environment() -> dict[str, Any]:
    """What a reader needs to repeat or to doubt the figures."""
    import torch
    import vllm

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    return {"vllm": vllm.__version__, "torch": torch.__version__, "device": device, "command": " ".join(sys.argv)}


def memory_used_gib() -> float | None:
    """Device memory in use by everybody, GiB, as the driver says; None without one."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        return sum(float(line) for line in subprocess.check_output(query, text=True).split()) / 1024
    except (OSError, subprocess.CalledProcessError):
        return None


def prompts_of(run: Run, length: int, count: int) -> list[list[int]]:
    """Distinct random prompts, the same in every part."""
    return [random.Random(f"{length} {i}").choices(range(1000, run.options.vocabulary), k=length) for i in range(count)]


class Bench:
    """One engine and how requests are timed on it."""

    def __init__(self, run: Run, part: str, spec: EngineSpec) -> None:
        self.run, self.part = run, part
        self.engine = VllmEngine(spec)
        self._ids = iter(range(10**9))
        facts = self.engine.facts
        run.record(part=part, figure="start", seconds=facts.load_seconds, kv_capacity=facts.kv_capacity_tokens)

    def generate(self, requests: Sequence[dict[str, Any]]) -> tuple[list[Generation], float, float]:
        """Run requests together; results, wall seconds and the highest KV use seen."""
        started, peak = time.monotonic(), 0.0
        for request in requests:
            self.engine.submit(GenerationRequest(request_id=f"{self.part}{next(self._ids)}", **request))
        done: list[Generation] = []
        while len(done) < len(requests):
            for result in self.engine.poll(0.2):
                if isinstance(result, GenerationFailure):
                    raise EngineError(result.failure.message)
                done.append(result)
            peak = max(peak, self.engine.progress().kv_use)
        return done, time.monotonic() - started, peak

    def prefill(self, length: int, name: str, method: dict[str, Any]) -> None:
        """Time to first token of one uncached prompt; the median after a warm-up."""
        prompts = prompts_of(self.run, length, 2 if length > LONG_TOKENS else PREFILL_RUNS + 1)
        results = [self._one(p, method, 1) for p in prompts]
        times = [r.seconds_to_first_token - r.seconds_queued for r in results[1:]]
        self.run.record(
            part=self.part, figure="prefill", length=length, in_flight=1, method=name, seconds=median(times),
            fastest=min(times), density=fmean(r.density_prefill for r in results[1:]),
        )  # fmt: skip

    def _one(self, prompt: list[int], method: dict[str, Any], tokens: int) -> Generation:
        return self.generate([{"prompt_token_ids": prompt, "max_tokens": tokens, "method": method}])[0][0]

    def throughput(self, length: int, in_flight: int, name: str, method: dict[str, Any]) -> None:
        """Whole uncached samples: samples an hour."""
        prompts = prompts_of(self.run, length, in_flight)
        request = [{"prompt_token_ids": p, "max_tokens": DECODE_TOKENS, "method": method} for p in prompts]
        results, seconds, peak = self.generate(request)
        self.run.record(
            part=self.part, figure="samples", length=length, in_flight=in_flight, method=name,
            samples_per_hour=3600 * len(results) / seconds, kv_peak=peak, memory_gib=memory_used_gib() or 0.0,
        )  # fmt: skip

    def decode(self, length: int, in_flight: int, name: str, method: dict[str, Any]) -> None:
        """Seconds a token while `in_flight` requests decode over cached prompts; the second of two rounds."""
        distinct = min(in_flight, self.run.options.distinct_prompts(length))
        prompts = prompts_of(self.run, length, distinct)
        requests = [
            {"prompt_token_ids": prompts[i % distinct], "max_tokens": DECODE_TOKENS, "method": method}
            | {"cache_group": "shared"}
            for i in range(in_flight)
        ]
        self.generate([r | {"max_tokens": 4} for r in requests])
        results, seconds, peak = self.generate(requests)
        self.run.record(
            part=self.part, figure="decode", length=length, in_flight=in_flight, method=name,
            seconds=median(r.seconds_decode / r.num_decode_steps for r in results),
            wall=seconds, density=fmean(r.density_decode for r in results), kv_kept=fmean(r.kv_kept for r in results),
            cached=fmean(r.num_cached_tokens for r in results), preemptions=sum(r.num_preemptions for r in results),
            kv_peak=peak, memory_gib=memory_used_gib() or 0.0,
        )  # fmt: skip

    @property
    def is_dead(self) -> bool:
        try:
            self.engine.poll(0.0)
        except EngineError:
            return True
        return False

    def close(self) -> None:
        self.engine.close()


def spec_of(run: Run, folder: str, **changes: Any) -> EngineSpec:
    options = run.options
    own = {"ignore_eos": True, **json.loads(options.engine_options), **changes.pop("options", {})}
    base: dict[str, Any] = dict(
        model=folder, max_model_len=max(options.lengths) + 1024, max_in_flight=max(options.in_flight),
        load_format="auto" if options.model else "dummy", dtype=options.dtype, kv_cache_gib=options.kv_cache_gib,
    )  # fmt: skip
    return EngineSpec(**(base | changes), options=own)


def cases(run: Run, with_methods: bool) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for length in run.options.lengths:
        chosen = methods_for(length) if with_methods else {}
        yield length, "dense", {}
        yield from ((length, n, m) for n, m in chosen.items() if not run.options.methods or n in run.options.methods)


def measure(run: Run, part: str, spec: EngineSpec, with_methods: bool) -> None:
    """All figures of one engine, prefill before decode, short lengths first."""
    bench = Bench(run, part, spec)
    try:
        for length, name, method in cases(run, with_methods):
            if bench.is_dead and time.monotonic() < run.deadline:
                bench.close()
                bench = Bench(run, part, spec)
            measure_case(run, bench, length, name, method)
    finally:
        bench.close()


def measure_case(run: Run, bench: Bench, length: int, name: str, method: dict[str, Any]) -> None:
    """The figures of one method at one length."""
    label = f"{bench.part} {name} {length}"
    limit = bench.engine.spec.max_in_flight
    if "prefill" in method or not method:
        run.guarded(f"{label} prefill", lambda: bench.prefill(length, name, method))
    if "prefill" not in method:
        for n in [n for n in run.options.in_flight if n <= limit]:
            run.guarded(f"{label} decode {n}", lambda: bench.decode(length, n, name, method))  # noqa: B023
    if length in run.options.sample_lengths:
        run.guarded(f"{label} samples", lambda: bench.throughput(length, limit, name, method))


def model_folder(options: argparse.Namespace, scratch: str) -> str:
    """The model's folder; with --shapes, a scratch folder that holds a config.json of those shapes."""
    if options.model:
        return str(options.model)
    config = dict(SHAPES[options.shapes])
    config["num_hidden_layers"] = options.layers or config["num_hidden_layers"]
    (Path(scratch) / "config.json").write_text(json.dumps(config))
    return scratch


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="frontier bench engine", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--model", help="folder with weights; without it, random weights of --shapes")
    parser.add_argument("--shapes", choices=sorted(SHAPES), default="qwen2.5-7b")
    parser.add_argument("--layers", type=int, help="fewer layers than the shapes have, for a quick look")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 32768, 131072])
    parser.add_argument("--sample-lengths", type=int, nargs="*", default=[8192], help="lengths of whole-sample runs")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--methods", nargs="*", default=[], help="only these; default all")
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
    measure(run, "stock", spec_of(run, folder, options={"plugin": False}), with_methods=False)


def _plugin(run: Run, folder: str) -> None:
    measure(run, "plugin", spec_of(run, folder), with_methods=True)


def _reference(run: Run, folder: str) -> None:
    spec = spec_of(run, folder, max_in_flight=1, options={"enforce_eager": True, "async_scheduling": False})
    measure(run, "reference", spec, with_methods=True)


PARTS: dict[str, Callable[[Run, str], None]] = {"stock": _stock, "plugin": _plugin, "reference": _reference}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 unless nothing at all was measured."""
    options = parse(sys.argv[1:] if argv is None else argv)
    run = Run(options, time.monotonic() + options.seconds)
    with tempfile.TemporaryDirectory() as scratch:
        folder = model_folder(options, scratch)
        for part in options.parts:
            run.guarded(part, lambda: PARTS[part](run, folder))  # noqa: B023
    for note in run.notes:
        print("note:", note)
    return 0 if run.rows else 1


if __name__ == "__main__":
    sys.exit(main())
