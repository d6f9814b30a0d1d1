"""Bringing a story and its questions to the target length together, since the questions depend on the story."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tasks.fit import Room, num_fitting
from tasks.prompts import PromptFrame
from tasks.story.narrative import CHAPTER_BREAK, Chapter, cost_of, sales, tell
from tasks.story.templates import CONVERSATION
from tasks.task import too_short

Q = TypeVar("Q")
_MAX_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Asked:
    """The question about a story and what it means for the story."""

    frame: PromptFrame
    about: tuple[int, ...]
    """Positions of the chapters asked for, from 0."""
    unbought: frozenset[int] = frozenset()
    """Positions of chapters whose purchase is left out."""
    consistent: bool = True
    """Things left out are never sold either."""


@dataclass(slots=True)
class StoryBuilder:
    """Chapters drawn as they are needed, and what they cost."""

    source: Iterator[Chapter]
    num_conversations: int
    room: Room
    chapters: list[Chapter] = field(default_factory=list)

    def take(self, count: int) -> list[Chapter]:
        """The first `count` chapters, fewer when the world is exhausted."""
        while len(self.chapters) < count and (chapter := next(self.source, None)) is not None:
            self.chapters.append(chapter)
        return self.chapters[:count]

    def told(self, asked: Asked, count: int, more: Sequence[int] = ()) -> list[list[str]]:
        """Segments of `count` chapters; `more` conversation sentences are added to each chapter."""
        story = self.take(count)
        sold = sales(story, asked.unbought if asked.consistent else ())
        extra = list(more) or [0] * count
        return [
            tell(chapter, at + 1, sold[at], self.num_conversations + extra[at],
                 buys=at not in asked.unbought, last=at + 1 == count)
            for at, chapter in enumerate(story)
        ]  # fmt: skip

    def num_fitting(self, asked: Asked, left: int) -> int:
        """How many chapters fit into `left` tokens."""
        per_chapter = max(1, self._typical_cost())
        count = len(self.take(left // per_chapter * 5 // 4 + 4))
        return num_fitting((cost_of(segments, self.room) for segments in self.told(asked, count)), left)

    def _typical_cost(self) -> int:
        known = self.told(Asked(PromptFrame(head="", tail=""), ()), 8)
        return sum(cost_of(segments, self.room) for segments in known) // len(known)


def fit_story(
    name: str, builder: StoryBuilder, ask: Callable[[Sequence[Chapter]], Asked], least: int
) -> tuple[Asked, list[str]]:
    """A question and story segments that fill the room. Raises LengthError if fewer than `least` chapters fit.

    The number of chapters is guessed, the question is asked about that many, and the guess is corrected by the room
    that the question leaves, until it stands; at the end the smaller of two alternating guesses is kept.
    """
    room = builder.room
    count, tried = least, set[int]()
    for _ in range(_MAX_ROUNDS):
        asked = ask(builder.take(count))
        left = room.left(asked.frame) - room.cost(CHAPTER_BREAK)
        fits = builder.num_fitting(asked, left)
        if fits == count or (fits > count and fits in tried):
            break
        tried.add(count)
        if fits < least:
            raise too_short(name, room.length_tokens, room.aim_tokens + _missing(builder, asked, left, least))
        count = fits
    return asked, _padded(builder, asked, count, left)


def _missing(builder: StoryBuilder, asked: Asked, left: int, least: int) -> int:
    return sum(cost_of(segments, builder.room) for segments in builder.told(asked, least)) - left


def _padded(builder: StoryBuilder, asked: Asked, count: int, left: int) -> list[str]:
    """The story; at short lengths, where a whole chapter is more than the slack, with more conversation."""
    more = [0] * count
    left -= sum(cost_of(segments, builder.room) for segments in builder.told(asked, count))
    if left > builder.room.slack_tokens // 2:
        _add_conversation(builder, more, left)
    segments = [text for chapter in builder.told(asked, count, more) for text in chapter]
    return ["Chapter", *segments]


def _add_conversation(builder: StoryBuilder, more: list[int], left: int) -> None:
    """Hand out further conversation sentences, a round over the chapters at a time, while they fit."""
    for used in range(builder.num_conversations, len(CONVERSATION)):
        for at, chapter in enumerate(builder.chapters[: len(more)]):
            left -= builder.room.cost(f" {chapter.conversation[used]}")
            if left < 0:
                return
            more[at] += 1


def chapters_named(numbers: Collection[int]) -> str:
    """Chapter ids as an answer states them."""
    return ", ".join(f"Chapter {number}" for number in sorted(numbers))
