"""A campaign on a Ray cluster of this machine, killed and resumed, exported, reported and packed, within a time box.

    python -m benchmarks.real_campaign SPEC --model FOLDER --out FOLDER --seconds 400

Starts a Ray head node with all GPUs, runs `frontier run SPEC` on it, kills that process (SIGKILL) when a share of the
samples is recorded, starts the same command again, and stops it so early that the store can be packed and the report
made before `--seconds` are over: what is finished by then is exported and reported. The workers outlive the kill, and
the second orchestrator adopts them without loading an engine anew. With `--continue-from STORE`, the packed store of a
run that was killed (on another machine, say), it resumes that campaign and kills nothing.

Writes at most eight files to FOLDER: summary.json, store.sqlite.xz, report.html, tables.tar.xz (CSV and JSON),
figures.tar.xz, export.tar.xz (Parquet), campaign.log, logs.tar.xz (Ray's and the workers' own).
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.device_busy import DeviceBusy
from benchmarks.packed_files import pack, pack_store, unpack_store
from benchmarks.ray_head import RayHead, device, environment_for, num_gpus
from orchestrator.scheduler.chaos.processes import command_of
from orchestrator.store.naming import UnknownCampaign
from orchestrator.store.session import open_store
from orchestrator.store.views import campaign_header, iter_outcomes

REPORT_SECONDS = 45.0
"""Set aside for packing the store, the export and the report."""
GRACE_SECONDS = 6.0
RESUME_SECONDS = 20.0
"""With less time than this left, no second run is started."""
LARGEST_LOG = 1 << 20


@dataclass(slots=True)
class Clock:
    """Time since the start, and what happened when."""

    seconds: float
    started: float = field(default_factory=time.monotonic)
    events: list[tuple[float, str]] = field(default_factory=list)

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.started)

    def note(self, text: str) -> None:
        self.events.append((round(time.monotonic() - self.started, 1), text))
        print(f"{self.events[-1][0]:7.1f} s  {text}", flush=True)


@dataclass(frozen=True, slots=True)
class Campaign:
    """A spec in a file, and the commands over its store."""

    spec: Path
    name: str
    store: Path
    log: Path
    engine: str
    environment: dict[str, str]

    def command(self, *arguments: str) -> list[str]:
        store = ["--store", f"sqlite:///{self.store}"]
        return [sys.executable, "-m", "orchestrator.cli.main", *arguments, *store]

    def start(self, address: str, wall_seconds: float | None = None) -> subprocess.Popen[bytes]:
        """`frontier run`, which continues the campaign if it is there."""
        limits = ["--grace", f"{GRACE_SECONDS:.0f}"]
        if wall_seconds is not None:
            limits += ["--wall-time", f"{max(1.0, wall_seconds):.0f}"]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command("run", str(self.spec), "--ray", address, "--engine", self.engine, "--plain", *limits),
                env=self.environment, stdout=log, stderr=log,
            )  # fmt: skip

    def ask(self, *arguments: str, timeout: float = 120.0) -> str:
        """Standard output of a command; its errors go to the log."""
        with self.log.open("ab") as log:
            done = subprocess.run(
                self.command(*arguments), env=self.environment, stdout=subprocess.PIPE, stderr=log,
                text=True, check=False, timeout=timeout,
            )  # fmt: skip
        return done.stdout

    def counts(self) -> tuple[int, int]:
        """Samples recorded, and all; (0, 0) before the campaign exists."""
        if not self.store.exists():
            return 0, 0
        try:
            with open_store(f"sqlite:///{self.store}", create=False) as store:
                header = campaign_header(store, self.name)
        except (UnknownCampaign, OSError, RuntimeError):
            return 0, 0
        return header.num_recorded, header.num_samples


def written_spec(path: Path, model: str | None, changes: Sequence[str], scratch: Path) -> tuple[Path, str]:
    """The spec with the model's folder and `KEY=VALUE` changes (YAML values) put in; its place and its name."""
    spec: dict[str, Any] = YAML(typ="safe").load(path.read_text())
    if model is not None:
        spec["models"][0] = {**_mapping(spec["models"][0]), "source": str(Path(model).resolve())}
    for change in changes:
        key, _, value = change.partition("=")
        *parents, last = key.split(".")
        place: Any = spec
        for parent in parents:
            place = place[int(parent) if isinstance(place, list) else parent]
        place[last] = YAML(typ="safe").load(value)
    written = scratch / "spec.yaml"
    with written.open("w") as stream:
        YAML().dump(spec, stream)
    return written, spec["name"]


def _mapping(model: Any) -> dict[str, Any]:
    return model if isinstance(model, dict) else {"source": model}


def drive(campaign: Campaign, address: str, clock: Clock, kill_share: float) -> None:
    """Run, kill at the share of samples, then `resume`."""
    # Without a wall time, before which no engine would be loaded any more: this one is killed.
    process = campaign.start(address)
    clock.note(f"orchestrator {process.pid} started")
    try:
        if not _until_share(campaign, process, clock, kill_share):
            clock.note(f"run ended before the kill, exit code {process.wait()}")
            return
        before, total = campaign.counts()
        process.send_signal(signal.SIGKILL)
        process.wait()
        clock.note(f"killed orchestrator {process.pid} (SIGKILL) after {before} of {total} samples")
    finally:
        _end(process)
    if clock.left >= REPORT_SECONDS + RESUME_SECONDS:
        resume(campaign, address, clock)


def resume(campaign: Campaign, address: str, clock: Clock) -> None:
    """The same command over what is recorded, to the end or to the end of the time."""
    before, total = campaign.counts()
    process = campaign.start(address, clock.left - REPORT_SECONDS)
    clock.note(f"the same command again over {before} of {total} samples: orchestrator {process.pid}")
    try:
        code = process.wait(max(1.0, clock.left - REPORT_SECONDS + 4 * GRACE_SECONDS))
        clock.note(f"exit code {code}; {campaign.counts()[0]} of {total} samples recorded")
    except subprocess.TimeoutExpired:
        clock.note("the orchestrator did not drain in time and is killed")
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


def _until_share(campaign: Campaign, process: subprocess.Popen[bytes], clock: Clock, share: float) -> bool:
    """Wait for that share of the samples, or for the end of the time; False when the run ends before."""
    first = True
    while process.poll() is None:
        recorded, total = campaign.counts()
        if recorded and first:
            clock.note("first samples recorded")
            first = False
        if (total and recorded >= share * total) or clock.left < REPORT_SECONDS:
            return True
        time.sleep(0.5)
    return False


def report(campaign: Campaign, out: Path, scratch: Path, clock: Clock) -> None:
    """Tables, export and report by the commands that a user has, then packed."""
    tables = scratch / "tables"
    tables.mkdir()
    for view in ("scores", "against-dense", "admissible"):
        (tables / f"{view}.json").write_text(campaign.ask("results", campaign.name, "--view", view, "--json"))
    (tables / "verify.json").write_text(campaign.ask("verify", campaign.name, "--json"))
    (tables / "failures.json").write_text(campaign.ask("failures", campaign.name, "--json"))
    clock.note("tables made")
    campaign.ask("report", campaign.name, "--out", str(scratch / "report"))
    made = scratch / "report"
    if (made / "report.html").exists():
        shutil.copy(made / "report.html", out / "report.html")
    clock.note("report made")
    campaign.ask("export", campaign.name, "--format", "parquet", "--out", str(scratch / "export"))
    pack([tables, made / "tables"], out / "tables.tar.xz")
    pack([made / "figures"], out / "figures.tar.xz")
    pack([scratch / "export"], out / "export.tar.xz")
    clock.note("exported and packed")


def summary(campaign: Campaign, clock: Clock, busy: DeviceBusy) -> dict[str, Any]:
    """What a reader wants first: counts, times, versions, and the share of time that the GPUs were busy."""
    from benchmarks.campaign_modes import environment

    status = json.loads(campaign.ask("status", campaign.name, "--json") or "{}")
    with open_store(f"sqlite:///{campaign.store}", create=False) as store:
        rows = list(iter_outcomes(store, campaign.name, with_completions=False))
    begin = min((row.recorded_at - row.seconds_total for row in rows), default=0.0)
    end = max((row.recorded_at for row in rows), default=0.0)
    return {
        "environment": environment() | {"device": device()},
        "events": clock.events,
        "recorded": len(rows),
        "work_seconds": end - begin,
        "samples_per_hour": 3600 * len(rows) / max(1e-9, end - begin),
        "device_busy": busy.share(begin, end),
        "prompt_tokens": sum(row.num_prompt_tokens for row in rows),
        "cached_tokens": sum(row.num_cached_tokens for row in rows),
        "output_tokens": sum(row.num_output_tokens for row in rows),
        "status": status,
    }


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="frontier bench real-campaign", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("spec", type=Path, help="the campaign file")
    parser.add_argument("--model", help="folder of the model, instead of the spec's first")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--seconds", type=float, default=400.0, help="time for everything")
    parser.add_argument("--engine", default="vllm", help="fake for a rehearsal without a model")
    parser.add_argument("--continue-from", type=Path, metavar="STORE", help="store.sqlite.xz of a run that was killed")
    parser.add_argument("--kill-at", type=float, default=0.3, help="share of the samples before the kill")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes of the spec, such as samples=2"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when samples were recorded and packed."""
    options = parse(sys.argv[1:] if argv is None else argv)
    clock = Clock(options.seconds)
    options.out.mkdir(parents=True, exist_ok=True)
    out = options.out.resolve()
    scratch = Path(tempfile.mkdtemp(prefix="frontier-campaign-"))
    environment = environment_for(scratch)
    spec, name = written_spec(options.spec, options.model, options.set, scratch)
    campaign = Campaign(spec, name, scratch / "store.sqlite", out / "campaign.log", options.engine, environment)
    if options.continue_from is not None:
        unpack_store(options.continue_from, campaign.store)
    head = RayHead(scratch, environment)
    try:
        clock.note(f"Ray is up with {num_gpus()} GPUs")
        with DeviceBusy() as busy:
            if options.continue_from is None:
                drive(campaign, head.address, clock, options.kill_at)
            else:
                resume(campaign, head.address, clock)
        engines = [p for p in head.marked() if "EngineCore" in command_of(p)]
        clock.note(f"engine processes that outlived the campaign: {len(engines)}")
        pack(head.logs(), out / "logs.tar.xz", LARGEST_LOG)
    finally:
        head.stop()
    if not campaign.counts()[0]:
        clock.note("no sample was recorded; see campaign.log and logs.tar.xz")
        return 1
    pack_store(campaign.store, out)
    clock.note("store packed")
    (out / "summary.json").write_text(json.dumps(summary(campaign, clock, busy), indent=1))
    report(campaign, out, scratch, clock)
    (out / "summary.json").write_text(json.dumps(summary(campaign, clock, busy), indent=1))
    shutil.rmtree(scratch, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
