"""Packing documents around the one that is asked about, up to the target length.

As in the Sparse Frontier (arXiv 2504.17768): every whole document of the shuffled pool that still fits, then a
beginning of the first one that does not, all shuffled and numbered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tasks.errors import DataError
from tasks.fit import Room
from tasks.pieces import cut_at_spaces
from tasks.prompts import PromptFrame
from tasks.qa.documents import Collection, Question, document_segments, segments_of
from tasks.seeding import Draw
from tasks.task import too_short
from tasks.tokenizer import Tokenizer

_HEADING = "\n\nDocument"
_KEPT_BACK_TOKENS = 4
_LEAST_PREFIX_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Packed:
    """A context and the frame that names the asked document's number."""

    frame: PromptFrame
    segments: list[str]
    number: int
    num_documents: int


@dataclass(frozen=True, slots=True)
class _Entry:
    segments: tuple[str, ...]
    asked: bool = False


def pack(
    collection: Collection,
    asked: Question,
    pool: Sequence[int],
    make_frame: Callable[[int], PromptFrame],
    draw: Draw,
    room: Room,
) -> Packed:
    """Documents around the asked one. Raises LengthError if it does not fit, DataError if the pool runs out."""
    target = _Entry(document_segments(collection, asked.document), asked=True)
    left = room.left(make_frame(100)) - _cost(room, target, 100)
    if left < 0:
        raise too_short(collection.name, room.length_tokens, room.aim_tokens - left)
    costs = document_costs(collection, room.tokenizer)
    whole, first_left = _whole_documents(costs, [at for at in draw.shuffled(pool) if at != asked.document], left)
    entries = [target, *(_Entry(document_segments(collection, at)) for at in whole)]
    order = draw.order(len(entries) + 1)
    packed = _numbered([entries[at] for at in order if at < len(entries)], make_frame)
    rest = room.left(packed.frame) - sum(room.cost(piece) for piece in cut_at_spaces(packed.segments))
    if first_left is None:
        return _complete(packed, collection, room, rest)
    beginning = _beginning(collection.documents[first_left], room, rest)
    if beginning is None:
        return packed
    entries.append(beginning)
    return _numbered([entries[at] for at in order], make_frame)


def document_costs(collection: Collection, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Tokens of each document with its heading."""
    return _document_costs(collection, tokenizer)


@lru_cache(maxsize=8)
def _document_costs(collection: Collection, tokenizer: Tokenizer) -> tuple[int, ...]:
    room = Room(tokenizer, 0, 0)
    numbers = range(len(collection.documents))
    return tuple(_cost(room, _Entry(document_segments(collection, number)), 100) for number in numbers)


def _cost(room: Room, entry: _Entry, number: int) -> int:
    return sum(room.cost(piece) for piece in cut_at_spaces([f" {number}:\n", *entry.segments, _HEADING]))


def _whole_documents(costs: Sequence[int], pool: Sequence[int], left: int) -> tuple[list[int], int | None]:
    whole: list[int] = []
    first_left: int | None = None
    for number in pool:
        if costs[number] <= left:
            whole.append(number)
            left -= costs[number]
        elif first_left is None:
            first_left = number
    return whole, first_left


def _numbered(entries: Sequence[_Entry], make_frame: Callable[[int], PromptFrame]) -> Packed:
    number = next(position for position, entry in enumerate(entries, 1) if entry.asked)
    segments = ["Document"]
    for position, entry in enumerate(entries, 1):
        segments += [f" {position}:\n", *entry.segments, _HEADING]
    return Packed(make_frame(number), segments[:-1], number, len(entries))


def _beginning(document: str, room: Room, rest: int) -> _Entry | None:
    """The first words of a document for the room that is left; None when that is next to nothing."""
    heading = _cost(room, _Entry(("It",)), 100)
    max_tokens = rest - heading - _KEPT_BACK_TOKENS
    if max_tokens < _LEAST_PREFIX_TOKENS:
        return None
    words = room.tokenizer.first_words(document, max_tokens)
    return _Entry(segments_of(words)) if words else None


def _complete(packed: Packed, collection: Collection, room: Room, rest: int) -> Packed:
    if rest > room.slack_tokens:
        filled = room.length_tokens - rest
        raise DataError(
            f"{collection.name}: all {packed.num_documents} documents fill only {filled} of {room.length_tokens} tokens"
            "; fetch the full data set or choose a shorter length"
        )
    return packed
