"""Readers of the public formats. A malformed row is skipped and reported with file and line."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tasks.errors import DataError
from tasks.qa.articles import LETTERS
from tasks.qa.documents import Collection, Gatherer

_ROW_ERRORS = (KeyError, TypeError, ValueError, IndexError, AttributeError)


def read_squad(path: Path, name: str) -> Collection:
    """SQuAD 2.0 JSON; questions marked impossible are left out."""
    content = _content(path)
    try:
        data = json.loads(content)["data"]
        paragraphs = [paragraph for article in data for paragraph in article["paragraphs"]]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not a SQuAD 2.0 file: {_why(error)}") from None
    gatherer = Gatherer()
    for number, paragraph in enumerate(paragraphs, 1):
        for at, row in enumerate(_questions(gatherer, paragraph, f"{path}: paragraph {number}"), 1):
            _guard(gatherer, f"{path}: paragraph {number}, question {at}", partial(_squad, gatherer, paragraph, row))
    return gatherer.collection(name, _hash(content))


def _questions(gatherer: Gatherer, paragraph: Any, where: str) -> list[Any]:
    found = paragraph.get("qas") if isinstance(paragraph, dict) else None
    if not isinstance(found, list) or not isinstance(paragraph.get("context"), str):
        gatherer.skipped.append(f"{where}: no context or no list of questions")
        return []
    return found


def _squad(gatherer: Gatherer, paragraph: Any, row: Any) -> None:
    if not row.get("is_impossible", False):
        gatherer.add(paragraph["context"], _text(row["question"]), [_text(answer["text"]) for answer in row["answers"]])


def read_quality(path: Path, name: str) -> Collection:
    """QuALITY JSONL, in the form of its authors (article, options, gold_label) or of LC-vs-RAG (see `read_toefl`)."""
    return _read_lines(path, name, _quality_row)


def read_toefl(path: Path, name: str) -> Collection:
    """TOEFL-QA JSONL: context, questions with their options, answers as letters."""
    return _read_lines(path, name, _choice_row)


def _quality_row(gatherer: Gatherer, row: Any) -> None:
    if "article" not in row:
        _choice_row(gatherer, row)
        return
    for question in row["questions"]:
        options = question["options"]
        label = question["gold_label"]
        if not isinstance(label, int) or not 1 <= label <= len(options) <= len(LETTERS):
            raise ValueError(f"gold_label {label!r} with {len(options)} options")
        listed = "\n".join(f"{letter}. {_text(option)}" for letter, option in zip(LETTERS, options, strict=False))
        gatherer.add(row["article"], f"{_text(question['question'])}\n{listed}", [LETTERS[label - 1]])


def _choice_row(gatherer: Gatherer, row: Any) -> None:
    questions, answers = row["questions"], row["answer"]
    if len(questions) != len(answers):
        raise ValueError(f"{len(questions)} questions but {len(answers)} answers")
    for question, answer in zip(questions, answers, strict=True):
        letters = "".join(sorted(set(re.findall(r"[A-Z]", answer.upper()))))
        if not letters or set(letters) - set(LETTERS):
            raise ValueError(f"answer {answer!r} is not made of the letters {LETTERS}")
        gatherer.add(row["context"], _text(question).removeprefix("Question:"), [letters])


def _read_lines(path: Path, name: str, read_row: Callable[[Gatherer, Any], None]) -> Collection:
    content = _content(path)
    gatherer = Gatherer()
    for number, line in enumerate(content.decode("utf-8", errors="replace").split("\n"), 1):
        if line.strip():
            _guard(gatherer, f"{path}:{number}", partial(_line, gatherer, line, read_row))
    return gatherer.collection(name, _hash(content))


def _line(gatherer: Gatherer, line: str, read_row: Callable[[Gatherer, Any], None]) -> None:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise TypeError("not an object")
    read_row(gatherer, row)


def _guard(gatherer: Gatherer, where: str, read: Callable[[], None]) -> None:
    try:
        read()
    except _ROW_ERRORS as error:
        gatherer.skipped.append(f"{where}: {_why(error)}")


def _why(error: Exception) -> str:
    return f"no field {error}" if isinstance(error, KeyError) else str(error)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
