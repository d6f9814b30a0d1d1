"""Scoring completions that were made elsewhere: a JSONL file with an index and a completion in each line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import DataError
from tasks.parameters import TaskParameters
from tasks.sample import RULES, Sample, Score, Verdict
from tasks.task import Task


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's text for the sample of an index."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class JudgedCompletion:
    """A completion under every set of rules."""

    index: int
    scores: dict[str, Score]


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts and mean under one set of rules; `num_counted` is the mean's denominator."""

    rules: str
    num_samples: int
    num_counted: int
    num_correct: int
    num_unanswered: int
    mean: float | None
    """None when the rules leave every sample out."""


def read_completions(path: Path) -> list[Completion]:
    """Lines such as {"index": 0, "completion": "…"}. Raises DataError naming file and line."""
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    found = [_completion(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise DataError(f"{path} holds no completion")
    return found


def _completion(line: str, where: str) -> Completion:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: not an object")
    index, text = row.get("index"), row.get("completion")
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise DataError(f"{where}: index is {index!r}; it must be an integer from 0 on")
    if not isinstance(text, str):
        raise DataError(f"{where}: completion is {text!r}; it must be text")
    return Completion(index, text.encode("utf-8", "replace").decode())  # a lone surrogate cannot be printed


def judge_all(
    task: Task[TaskParameters], sample_of: Callable[[int], Sample], completions: Iterable[Completion]
) -> list[JudgedCompletion]:
    """Each completion under all rules; `sample_of` makes the sample of an index."""
    judged = []
    for completion in completions:
        sample = sample_of(completion.index)
        judged.append(
            JudgedCompletion(completion.index, {rules: task.score(sample, completion.text, rules) for rules in RULES})
        )
    return judged


def summarise(judged: Sequence[JudgedCompletion], rules: str) -> Summary:
    """Counts and mean under `rules`."""
    scores = [one.scores[rules] for one in judged]
    values = [score.value for score in scores if score.value is not None]
    return Summary(
        rules=rules,
        num_samples=len(scores),
        num_counted=len(values),
        num_correct=sum(score.verdict is Verdict.CORRECT for score in scores),
        num_unanswered=sum(score.verdict is Verdict.UNANSWERED for score in scores),
        mean=sum(values) / len(values) if values else None,
    )
