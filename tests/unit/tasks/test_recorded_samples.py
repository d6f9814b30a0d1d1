"""Samples recorded once: a change of their bytes without a change of the task's version fails here.

To record anew after raising a version: python -m tests.unit.tasks.test_recorded_samples
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import pytest

from tasks.registry import get_task, task_names
from tasks.ruler.words import vocabulary_hash
from tasks.tokenizer import load_tokenizer
from tests.support.small_tokenizers import build_folder

_RECORD = Path(__file__).parent / "recorded_samples.json"
_LENGTH = 24_000
"""One token a byte: about 6,000 tokens of a usual tokenizer."""


def _digests(name: str, tokenizer_folder: Path) -> dict[str, str | int]:
    task, tokenizer = get_task(name), load_tokenizer(tokenizer_folder)
    parameters = task.parse_parameters({"dataset": "sample"} if name.startswith("qa") else {})
    sample = task.sample(parameters, length_tokens=_LENGTH, tokenizer=tokenizer, seed=43, index=2)
    return {
        "version": task.version,
        "key": sample.key,
        "prompt": hashlib.sha256(sample.prompt.encode()).hexdigest(),
        "gold_answer": hashlib.sha256(sample.gold_answer.encode()).hexdigest(),
    }


@pytest.mark.parametrize("name", task_names())
def test_samples_have_their_recorded_bytes(name: str, tokenizer_folders: dict[str, Path]) -> None:
    record = json.loads(_RECORD.read_text())
    if name == "ruler_cwe" and record["vocabulary"] != vocabulary_hash():
        pytest.skip("another version of wonderwords, hence other words and another key")
    made = _digests(name, tokenizer_folders["bytes"])
    assert made == record[name], f"{name} makes other samples: raise its version and record anew"


def _record() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = build_folder("bytes", Path(scratch))
        made = {name: _digests(name, folder) for name in task_names()}
    _RECORD.write_text(json.dumps({"vocabulary": vocabulary_hash(), **made}, indent=1) + "\n")


if __name__ == "__main__":
    _record()
