"""The form of lm-evaluation-harness: one folder a run, with `results_….json` and `samples_TASK_….jsonl`.

A run there is one model; here it is one (model, method, budget, length, seed), named so in `model_name`.
Prompts and gold answers are not in the store, so `doc` carries the sample's identity in their place.
Unanswered samples score 0; unscored ones are left out, and `n-samples` gives both counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from math import sqrt
from pathlib import Path
from typing import Any

from orchestrator.store.dump import Dump

METRIC = "score"
FILTER = "none"
RUN_COLUMNS = ("model", "method", "budget", "length_tokens", "seed")


@dataclass(slots=True)
class _Tally:
    """Running sums of one task of one run."""

    version: int = 0
    planned: int = 0
    count: int = 0
    unanswered: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, score: float, verdict: str) -> None:
        self.count += 1
        self.unanswered += verdict == "unanswered"
        self.total += score
        self.squares += score * score

    @property
    def mean(self) -> float:
        return self.total / self.count

    @property
    def standard_error(self) -> float | str:
        if self.count < 2:
            return "N/A"
        variance = max(0.0, (self.squares - self.total**2 / self.count) / (self.count - 1))
        return sqrt(variance / self.count)


@dataclass(slots=True)
class _Run:
    """One folder."""

    name: str
    model: str
    settings: Mapping[str, Any]
    tasks: dict[str, _Tally] = field(default_factory=dict)


def export_lm_eval(
    dump: Dump, cells: Iterable[Mapping[str, Any]], outcomes: Iterable[Mapping[str, Any]], folder: Path
) -> tuple[tuple[Path, ...], int]:
    """Write every run under `folder`; returns the files and the number of samples written.

    `outcomes` must come ordered by cell, as a dump gives them.
    """
    stamp = datetime.fromtimestamp(float(dump.campaign["created_at"]), UTC).replace(tzinfo=None)
    date = stamp.isoformat().replace(":", "-")
    by_key = {str(cell["cell_key"]): cell for cell in cells}
    runs: dict[tuple[Any, ...], _Run] = {}
    files: list[Path] = []
    written = 0
    for cell_key, rows in groupby(outcomes, key=lambda row: row["cell_key"]):
        cell = by_key[cell_key]
        run = runs.setdefault(tuple(cell[c] for c in RUN_COLUMNS), _new_run(cell))
        tally = run.tasks.setdefault(_task_name(cell), _Tally(version=cell["task_version"]))
        tally.planned += cell["num_samples"]
        path = folder / run.name / f"samples_{_task_name(cell)}_{date}.jsonl"
        written += _write_samples(rows, path, tally)
        files.append(path)
    files += [_write_results(dump, run, folder / run.name / f"results_{date}.json") for run in runs.values()]
    return tuple(files), written


def _new_run(cell: Mapping[str, Any]) -> _Run:
    settings = {c: cell[c] for c in RUN_COLUMNS} | {"method_choice": json.loads(cell["method_choice"])}
    parts = [cell["model"], cell["method"], cell["budget"], f"{cell['length_tokens']}", f"seed{cell['seed']}"]
    name = re.sub(r"[^\w.+=×-]+", "__", "__".join(str(p) for p in parts if p != ""))
    return _Run(name, str(cell["model"]), settings)


def _task_name(cell: Mapping[str, Any]) -> str:
    return re.sub(r"\W", "_", str(cell["task"]))


def _write_samples(rows: Iterator[Mapping[str, Any]], path: Path, tally: _Tally) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("a" if tally.count else "w", encoding="utf-8") as file:
        for row in rows:
            if row["verdict"] == "unscored":
                continue
            tally.add(float(row["score"]), row["verdict"])
            file.write(json.dumps(_sample(row), ensure_ascii=False) + "\n")
            count += 1
    return count


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    identity = {key: row[key] for key in ("sample_key", "task", "length_tokens", "seed", "index", "num_prompt_tokens")}
    return {
        "doc_id": row["index"],
        "doc": identity,
        "target": "",
        "arguments": {"gen_args_0": {"arg_0": "", "arg_1": {}}},
        "resps": [[row["completion"]]],
        "filtered_resps": [row["extracted"]],
        "filter": FILTER,
        "metrics": [METRIC],
        "doc_hash": row["sample_key"],
        "prompt_hash": row["prompt_hash"],
        "target_hash": "",
        METRIC: row["score"],
        "verdict": row["verdict"],
    }


def _write_results(dump: Dump, run: _Run, path: Path) -> Path:
    tasks = {name: tally for name, tally in run.tasks.items() if tally.count}
    content = {
        "results": {name: _result(name, tally) for name, tally in tasks.items()},
        "group_subtasks": {name: [] for name in tasks},
        "configs": {name: _config(name) for name in tasks},
        "versions": {name: tally.version for name, tally in tasks.items()},
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {name: {METRIC: True} for name in tasks},
        "n-samples": {name: {"original": t.planned, "effective": t.count} for name, t in tasks.items()},
        "config": {"model": run.model, "model_args": dict(run.settings), "batch_size": None, "limit": None},
        "git_hash": dump.campaign["code_revision"],
        "date": dump.campaign["created_at"],
        "task_hashes": {},
        "model_source": "frontier",
        "model_name": run.name,
        "model_name_sanitized": run.name,
        "start_time": dump.campaign["started_at"],
        "end_time": dump.campaign["finished_at"],
        "campaign": dump.campaign["name"],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _config(name: str) -> dict[str, Any]:
    """What the harness's tools read of a task's configuration."""
    metric = {"metric": METRIC, "aggregation": "mean", "higher_is_better": True}
    return {"task": name, "output_type": "generate_until", "num_fewshot": 0, "metric_list": [metric]}


def _result(name: str, tally: _Tally) -> dict[str, Any]:
    return {
        "alias": name,
        "sample_len": tally.count,
        f"{METRIC},{FILTER}": tally.mean,
        f"{METRIC}_stderr,{FILTER}": tally.standard_error,
        f"unanswered_share,{FILTER}": tally.unanswered / tally.count,
    }
