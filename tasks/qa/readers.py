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
        articles = _list(json.loads(content), "data")
    except (TypeError, ValueError) as error:
        raise DataError(f"{path} is not a SQuAD 2.0 file: {error}") from None
    gatherer = Gatherer()
    for number, article in enumerate(articles, 1):
        where = f"{path}: article {number}"
        _guard(gatherer, where, partial(_squad_article, gatherer, article, where))
    return gatherer.collection(name, _hash(content))


def _squad_article(gatherer: Gatherer, article: Any, where: str) -> None:
    for number, paragraph in enumerate(_list(article, "paragraphs"), 1):
        there = f"{where}, paragraph {number}"
        _guard(gatherer, there, partial(_squad_paragraph, gatherer, paragraph, there))


def _squad_paragraph(gatherer: Gatherer, paragraph: Any, where: str) -> None:
    rows = _list(paragraph, "qas")
    context = _text(paragraph["context"])
    for number, row in enumerate(rows, 1):
        _guard(gatherer, f"{where}, question {number}", partial(_squad, gatherer, context, row))


def _squad(gatherer: Gatherer, context: str, row: Any) -> None:
    if not _object(row).get("is_impossible", False):
        answers = [_text(_object(answer)["text"]) for answer in _list(row, "answers")]
        gatherer.add(context, _text(row["question"]), answers)


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
        gatherer.add(_text(row["article"]), f"{_text(question['question'])}\n{listed}", [LETTERS[label - 1]])


def _choice_row(gatherer: Gatherer, row: Any) -> None:
    questions, answers = row["questions"], row["answer"]
    if len(questions) != len(answers):
        raise ValueError(f"{len(questions)} questions but {len(answers)} answers")
    for question, answer in zip(questions, answers, strict=True):
        letters = "".join(sorted(set(re.findall(r"[A-Z]", answer.upper()))))
        if not letters or set(letters) - set(LETTERS):
            raise ValueError(f"answer {answer!r} is not made of the letters {LETTERS}")
        gatherer.add(_text(row["context"]), _text(question).removeprefix("Question:"), [letters])


def _read_lines(path: Path, name: str, read_row: Callable[[Gatherer, Any], None]) -> Collection:
    content = _content(path)
    gatherer = Gatherer()
    for number, line in enumerate(content.decode("utf-8", errors="replace").split("\n"), 1):
        if line.strip():
            _guard(gatherer, f"{path}:{number}", partial(_line, gatherer, line, read_row))
    return gatherer.collection(name, _hash(content))


def _line(gatherer: Gatherer, line: str, read_row: Callable[[Gatherer, Any], None]) -> None:
    read_row(gatherer, _object(json.loads(line)))


def _guard(gatherer: Gatherer, where: str, read: Callable[[], None]) -> None:
    try:
        read()
    except _ROW_ERRORS as error:
        gatherer.skipped.append(f"{where}: {_why(error)}")


def _why(error: Exception) -> str:
    return f"no field {error}" if isinstance(error, KeyError) else str(error)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value


def _list(value: Any, field: str) -> list[Any]:
    found = _object(value).get(field)
    if not isinstance(found, list):
        raise TypeError(f"no list {field!r}")
    return found


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
