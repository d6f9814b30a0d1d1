"""What does it cost an engine to change the method from one request to the next?

    frontier bench switches --model FOLDER [--requests 200] [--length 300]
    frontier bench switches --shapes qwen2.5-7b [--layers 28]     (random weights of real shapes, for a GPU)

One request at a time. First each method alone, request after request; then all methods in turn. The extra latency of a
switch is a request's latency in the second part, less the median of its method in the first. The same difference over
the first part's own requests, where nothing switches, shows what of it is noise. Weights are loaded once.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any

from benchmarks.engine_cases import SHAPES, model_folder
from workers.engine import EngineSpec, GenerationFailure, GenerationRequest
from workers.failures import EngineError
from workers.vllm_engine import VllmEngine

METHODS: dict[str, dict[str, Any]] = {
    "dense": {},
    "vertical_slash": {"prefill": {"name": "vertical_slash", "vertical_size": 64, "slash_size": 64, "window": 64}},
    "flexprefill": {"prefill": {"name": "flexprefill", "alpha": 0.0, "min_budget": 64, "window": 64}},
    "block_sparse": {"prefill": {"name": "block_sparse", "top_blocks": 8}},
    "quest": {"decode": {"name": "quest", "token_budget": 64}},
    "snapkv": {"compress": {"name": "snapkv", "token_capacity": 140, "window": 64}},
    "ada_snapkv": {"compress": {"name": "ada_snapkv", "token_capacity": 140, "window": 64}},
}


class Alone:
    """Requests one by one on one engine."""

    def __init__(self, engine: VllmEngine, length: int, tokens: int) -> None:
        self._engine, self._tokens = engine, tokens
        self._prompt = random.Random(0).choices(range(10, 400), k=length)
        self._count = 0

    def seconds(self, name: str) -> float:
        """Latency of one more request of this method. Raises EngineError when the engine refuses it."""
        self._count += 1
        request = GenerationRequest(
            request_id=f"{self._count}", prompt_token_ids=self._prompt, max_tokens=self._tokens, method=METHODS[name]
        )
        started = time.perf_counter()
        self._engine.submit(request)
        while not (done := self._engine.poll(1.0)):
            pass
        if isinstance(done[0], GenerationFailure):
            raise EngineError(done[0].failure.message)
        return time.perf_counter() - started


def measure(engine: VllmEngine, requests: int, length: int, tokens: int) -> dict[str, Any]:
    """Medians by method, and the extra latencies of `requests` alternating requests."""
    alone, names = Alone(engine, length, tokens), list(METHODS)
    for name in names:  # the first of a kind compiles
        alone.seconds(name)
    rounds = max(10, requests // len(names))
    apart = {name: [alone.seconds(name) for _ in range(rounds)] for name in names}
    steady = {name: median(seconds) for name, seconds in apart.items()}
    noise = [one - steady[name] for name, seconds in apart.items() for one in seconds]
    order = [names[i % len(names)] for i in range(requests)]
    extra = [alone.seconds(name) - steady[name] for name in order]
    return {
        "requests": requests,
        "weight_loads": engine.facts.num_weight_loads,
        "steady_ms": {name: 1000 * seconds for name, seconds in steady.items()},
        "extra_median_ms": 1000 * median(extra),
        "extra_p95_ms": 1000 * quantiles(extra, n=20)[-1],
        "without_switches_p95_ms": 1000 * quantiles(noise, n=20)[-1],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print JSON."""
    parser = argparse.ArgumentParser(prog="frontier bench switches", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="model folder")
    source.add_argument("--shapes", choices=sorted(SHAPES), help="random weights of such a model, token ids alone")
    parser.add_argument("--layers", type=int, help="fewer layers than the shapes have")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--length", type=int, default=300, help="prompt tokens")
    parser.add_argument("--tokens", type=int, default=4, help="tokens to generate")
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    with tempfile.TemporaryDirectory() as scratch:
        engine = VllmEngine(
            EngineSpec(
                model=model_folder(options, scratch),
                max_model_len=options.length + options.tokens + 16,
                load_format="auto" if options.model else "dummy",
                options={"ignore_eos": True},
            )
        )
        try:
            found = measure(engine, options.requests, options.length, options.tokens)
        finally:
            engine.close()
    facts = engine.facts
    environment = {"engine": facts.engine, "device": facts.device, "python": platform.python_version()}
    print(json.dumps({**environment, **facts.versions, **found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
