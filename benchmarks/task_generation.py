"""How fast samples are made: samples a second per task and length, in processor time, hence per core.

Run: python benchmarks/task_generation.py [--tokenizer FOLDER] [--lengths 4096 32768 131072] [--seconds 4]

`cold` is the rate over the first samples of a fresh process, while the tokenizer still meets most sentences for the
first time; `warm` is the rate after that. Without --tokenizer a byte-level BPE tokenizer is trained on the spot.
Question answering uses generated articles, because the shipped sample is too small for the longest length.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import NamedTuple

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # before tokenizers is imported: one core

REPOSITORY = Path(__file__).parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "support")]

import tokenizers  # noqa: E402

from tasks.qa.articles import write_sample  # noqa: E402
from tasks.registry import get_task, task_names  # noqa: E402
from tasks.task import Task  # noqa: E402
from tasks.tokenizer import Tokenizer, load_tokenizer  # noqa: E402

TARGETS = {"qa": 3.0}
DEFAULT_TARGET = 10.0
_FILES = {"qa_squad": "squad.json", "qa_quality": "quality.jsonl", "qa_toefl": "toefl.jsonl"}


class Rates(NamedTuple):
    """Samples a second."""

    cold: float
    warm: float


def measure(task: Task, parameters: dict[str, str], length_tokens: int, folder: Path, seconds: float) -> Rates:
    """Rates of the first `num_cold` samples and of those made in the `seconds` after them."""
    tokenizer = load_tokenizer(folder)
    parsed = task.parse_parameters(parameters)
    num_cold = 5
    _make(task, parsed, 1024 * 8, tokenizer, 10**6)  # imports, word lists, choice of questions
    cold = _rate(task, parsed, length_tokens, tokenizer, 0, num_cold, None)
    warm = _rate(task, parsed, length_tokens, tokenizer, num_cold, None, seconds)
    return Rates(cold, warm)


def _rate(
    task: Task, parsed: object, length: int, tokenizer: Tokenizer, first: int, number: int | None, seconds: float | None
) -> float:
    start = time.process_time()
    for made, index in enumerate(count(first), 1):
        _make(task, parsed, length, tokenizer, index)
        elapsed = time.process_time() - start
        if made == number or (seconds is not None and elapsed >= seconds):
            return made / elapsed
    raise AssertionError("unreachable")


def _make(task: Task, parsed: object, length: int, tokenizer: Tokenizer, index: int) -> None:
    sample = task.sample(parsed, length_tokens=length, tokenizer=tokenizer, seed=1, index=index)
    if not 0.95 * length <= sample.num_prompt_tokens <= length:
        raise SystemExit(f"{task.name} at {length}: {sample.num_prompt_tokens} tokens")


def main() -> None:
    """Print the environment and a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 32768, 131072])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--tasks", nargs="+", default=list(task_names()), choices=task_names())
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        _table(arguments, Path(scratch))


def _table(arguments: argparse.Namespace, scratch: Path) -> None:
    folder = arguments.tokenizer
    if folder is None:
        from small_tokenizers import build_folder

        folder = build_folder("byte_bpe", scratch / "tokenizer")
    write_sample(scratch / "data", 1500)
    print(f"python {platform.python_version()}, tokenizers {tokenizers.__version__}, {_processor()}")
    print(f"tokenizer {folder.name}, fingerprint {load_tokenizer(folder).fingerprint[:12]}")
    print("samples a second of processor time (+ and ! say whether the target at 128k is met)")
    print(f"{'task':16}" + "".join(f"{f'{length} cold':>14}{'warm':>8}" for length in arguments.lengths))
    for name in arguments.tasks:
        cells = (_cell(name, length, folder, scratch, arguments.seconds) for length in arguments.lengths)
        print(f"{name:16}" + "".join(cells), flush=True)


def _cell(name: str, length: int, folder: Path, scratch: Path, seconds: float) -> str:
    parameters = {"dataset": str(scratch / "data" / _FILES[name])} if name in _FILES else {}
    try:
        rates = measure(get_task(name), parameters, length, folder, seconds)
    except ValueError as error:
        return f"{'-':>14}{'-':>8}" + f"  ({error})"
    target = TARGETS.get(name.partition("_")[0], DEFAULT_TARGET)
    mark = "" if length < 100_000 else ("+" if rates.warm >= target else "!")
    return f"{rates.cold:14.1f}{f'{rates.warm:.1f}{mark}':>8}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


if __name__ == "__main__":
    main()
