"""Question answering data in one form, and what a tokenizer makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from tasks.errors import DataError


@dataclass(frozen=True, slots=True)
class Question:
    """A question about one document."""

    document: int
    """Index into the collection's documents."""
    text: str
    """With its options, if it has any."""
    answers: tuple[str, ...]
    """Accepted phrases; for multiple choice one text of letters in alphabetic order, such as "BD"."""


@dataclass(frozen=True, slots=True, eq=False)
class Collection:
    """Documents with questions, as read from one file."""

    name: str
    """For messages: the data set's name or the file's."""
    documents: tuple[str, ...]
    questions: tuple[Question, ...]
    content_hash: str
    """SHA-256 of the file's bytes; enters the identity of every sample."""
    skipped: tuple[str, ...] = ()
    """A line "file:line: why" for each malformed row."""


class Gatherer:
    """Collects documents and questions, each once, while a file is read."""

    def __init__(self) -> None:
        self._documents: dict[str, int] = {}
        self._questions: dict[tuple[int, str], Question] = {}
        self.skipped: list[str] = []

    def add(self, document: str, text: str, answers: Sequence[str]) -> None:
        """A question with its document; a repeated (question, document) pair is left out."""
        body, asked = document.strip(), text.strip()
        if not body or not asked or not any(answer.strip() for answer in answers):
            raise ValueError("empty context, question or answer")
        if not all(_is_text(part) for part in (body, asked, *answers)):
            raise ValueError("a lone surrogate, which is no character")
        number = self._documents.setdefault(body, len(self._documents))
        kept = tuple(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))
        self._questions.setdefault((number, asked.lower()), Question(number, asked, kept))

    def collection(self, name: str, content_hash: str) -> Collection:
        """What was gathered. Raises DataError when there is no usable question."""
        if not self._questions:
            why = f"; first problem: {self.skipped[0]}" if self.skipped else ""
            raise DataError(f"no usable question in {name}{why}")
        return Collection(
            name, tuple(self._documents), tuple(self._questions.values()), content_hash, tuple(self.skipped)
        )


def _is_text(text: str) -> bool:
    """Whether every code point is a character, so that a tokenizer takes it."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


@lru_cache(maxsize=8)
def _split(collection: Collection) -> tuple[tuple[str, ...], ...]:
    return tuple(segments_of(document) for document in collection.documents)


def document_segments(collection: Collection, number: int) -> tuple[str, ...]:
    """A document in segments whose encodings recur: all but the last word, and the last word."""
    return _split(collection)[number]


def segments_of(text: str) -> tuple[str, ...]:
    """A text as all but its last word, and its last word with the space before it."""
    body, space, last = text.rpartition(" ")
    return (body, f"{space}{last}") if body else (text,)
