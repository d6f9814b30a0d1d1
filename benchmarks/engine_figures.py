"""One engine under measurement: how its prefill, its decode steps and whole samples are timed."""

from __future__ import annotations

import json
import platform
import random
import subprocess
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.device_busy import DeviceBusy, driver_query
from workers.engine import EngineSpec, Generation, GenerationFailure, GenerationRequest
from workers.failures import EngineError
from workers.vllm_engine import VllmEngine

PREFILL_RUNS = 2
LONG_TOKENS = 65536
"""Prompts beyond this are prefilled once, after the warm-up, and few whole samples of them are run."""
LONG_SAMPLES = 4
DECODE_TOKENS = 64
WARM_TOKENS = 24
"""Tokens of the round before: enough for the engine to capture its graphs."""
WARM_STEPS = 16
"""Steps of each batch size while a full batch drains in a warm-up; as many as a capture waits for, and some more."""
ROUNDS_ALONE = 3
"""Rounds of one request in flight: a hiccup of the host would be a tenth of one."""


@dataclass(slots=True)
class Run:
    """Everything of one invocation: options, the clock and the rows so far."""

    options: Namespace
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
    """Memory in use on this process's devices by everybody, GiB, as the driver says; None without one."""
    try:
        used = subprocess.check_output(driver_query("memory.used"), text=True)
        return sum(float(line) for line in used.split()) / 1024
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

    def samples(self, length: int, name: str, method: dict[str, Any]) -> None:
        """Whole uncached samples with the engine full: samples an hour. Prefill must be warm."""
        count = self.engine.spec.max_in_flight
        if length > LONG_TOKENS:
            count = min(count, LONG_SAMPLES)
        tokens = self.run.options.sample_tokens
        prompts = prompts_of(self.run, length, count)
        requests = [{"prompt_token_ids": p, "max_tokens": tokens, "method": method} for p in prompts]
        if count == 1:  # nothing else was timed on this engine
            self.generate([{"prompt_token_ids": prompts[0][: length // 2], "max_tokens": 8, "method": method}])
        else:
            self._drain_a_full_batch(prompts[0], count, method)
        with DeviceBusy() as device:
            begin = time.time()
            results, seconds, peak = self.generate(requests)
            busy = device.share(begin, begin + seconds)
        self.run.record(
            part=self.part, figure="samples", length=length, in_flight=count, method=name, tokens=tokens,
            samples_per_hour=3600 * len(results) / seconds, seconds_a_sample=seconds / len(results), busy=busy,
            seconds_to_first_token=median(r.seconds_to_first_token for r in results),
            kv_peak=peak, memory_gib=memory_used_gib() or 0.0,
        )  # fmt: skip

    def _drain_a_full_batch(self, prompt: list[int], count: int, method: dict[str, Any]) -> None:
        """Warm-up: a full batch over one cached prompt, which ends little by little, so that every size comes."""
        same = {"prompt_token_ids": prompt, "method": method, "cache_group": "shared"}
        self.generate([same | {"max_tokens": WARM_STEPS * (1 + i * 8 // count)} for i in range(count)])

    def decode(self, length: int, in_flight: int, name: str, method: dict[str, Any]) -> None:
        """Seconds a token while `in_flight` requests decode over cached prompts; after a round of warm-up."""
        distinct = min(in_flight, self.run.options.distinct_prompts(length))
        prompts = prompts_of(self.run, length, distinct)
        requests = [
            {"prompt_token_ids": prompts[i % distinct], "max_tokens": DECODE_TOKENS, "method": method}
            | {"cache_group": "shared"}
            for i in range(in_flight)
        ]
        self.generate([r | {"max_tokens": WARM_TOKENS} for r in requests])
        rounds = [self.generate(requests) for _ in range(ROUNDS_ALONE if in_flight == 1 else 1)]
        results, seconds, peak = rounds[-1]
        by_round = [median(r.seconds_decode / r.num_decode_steps for r in one) for one, _, _ in rounds]
        self.run.record(
            part=self.part, figure="decode", length=length, in_flight=in_flight, method=name,
            seconds=median(by_round), rounds=by_round, wall=seconds,
            density=fmean(r.density_decode for r in results), kv_kept=fmean(r.kv_kept for r in results),
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
