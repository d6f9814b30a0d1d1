"""Bringing a story and its questions to the target length together, since the questions depend on the story."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tasks.fit import Room, num_fitting
from tasks.prompts import PromptFrame
from tasks.story.narrative import CHAPTER_BREAK, Chapter, sales, tell
from tasks.story.templates import CONVERSATION
from tasks.task import too_short

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


class Told(NamedTuple):
    """A chapter's text and its tokens inside a story."""

    pieces: list[str]
    cost: int


@dataclass(slots=True)
class StoryBuilder:
    """Chapters drawn and told as they are needed."""

    source: Iterator[Chapter]
    num_conversations: int
    room: Room
    chapters: list[Chapter] = field(default_factory=list)
    _told: dict[tuple[int, str | None, bool], Told] = field(default_factory=dict)

    def take(self, count: int) -> list[Chapter]:
        """The first `count` chapters, fewer when the world is exhausted."""
        while len(self.chapters) < count and (chapter := next(self.source, None)) is not None:
            self.chapters.append(chapter)
        return self.chapters[:count]

    def told(self, asked: Asked, count: int) -> list[Told]:
        """The first `count` chapters as the question wants them."""
        sold = sales(self.take(count), asked.unbought if asked.consistent else ())
        return [self._tell(at, thing, at not in asked.unbought) for at, thing in enumerate(sold)]

    def num_fitting(self, asked: Asked, left: int) -> int:
        """How many chapters fit into `left` tokens."""
        first = self.told(asked, 8)
        typical = sum(told.cost for told in first) // len(first)
        return num_fitting((told.cost for told in self.told(asked, left // typical * 5 // 4 + 4)), left)

    def _tell(self, at: int, sold: str | None, buys: bool) -> Told:
        key = (at, sold, buys)
        if key not in self._told:
            pieces = tell(self.chapters[at], at + 1, sold, self.num_conversations, buys=buys)
            self._told[key] = Told(pieces, sum(map(self.room.cost, pieces)))
        return self._told[key]


class FittedStory(NamedTuple):
    """A question with the context that it is about."""

    asked: Asked
    context: list[str]


def fit_story(name: str, builder: StoryBuilder, ask: Callable[[Sequence[Chapter]], Asked], least: int) -> FittedStory:
    """A question and story segments that fill the room. Raises LengthError if fewer than `least` chapters fit.

    The number of chapters is guessed, the question is asked about that many, and the guess is corrected by the room
    that the question leaves, until it stands; at the end the smaller of two alternating guesses is kept.
    """
    room = builder.room
    count, tried = least, set[int]()
    for _ in range(_MAX_ROUNDS):
        asked = ask(builder.take(count))
        left = room.left(asked.frame)
        fits = builder.num_fitting(asked, left)
        if fits == count or (fits > count and fits in tried):
            break
        if fits < least:
            needed = sum(told.cost for told in builder.told(asked, least))
            raise too_short(name, room.length_tokens, room.aim_tokens + needed - left)
        tried.add(count)
        count = fits
    else:
        count = min(tried)
        asked = ask(builder.take(count))
        left = room.left(asked.frame)
    return FittedStory(asked, _context(builder, builder.told(asked, count), left))


def _context(builder: StoryBuilder, story: list[Told], left: int) -> list[str]:
    """The story; at short lengths, where a whole chapter is more than the slack, with more conversation."""
    left -= sum(told.cost for told in story)
    context = ["Chapter"]
    if left <= builder.room.slack_tokens // 2:
        context += [piece for told in story for piece in told.pieces]
    else:
        extra = _more_conversation(builder, len(story), left)
        for told, sentences in zip(story, extra, strict=True):
            spoken = _NUM_OPENING + builder.num_conversations
            context += [*told.pieces[:spoken], *sentences, *told.pieces[spoken:]]
    context[-1] = context[-1].removesuffix(CHAPTER_BREAK)
    return context


_NUM_OPENING = 5
"""Pieces of a chapter before its conversation: number and first word, scene, reason, event, encounter."""


def _more_conversation(builder: StoryBuilder, num_chapters: int, left: int) -> list[list[str]]:
    """Further conversation sentences for each chapter, a round over the chapters at a time, while they fit."""
    extra: list[list[str]] = [[] for _ in range(num_chapters)]
    for used in range(builder.num_conversations, len(CONVERSATION)):
        for sentences, chapter in zip(extra, builder.chapters, strict=False):
            sentence = f" {chapter.conversation(used)}"
            left -= builder.room.cost(sentence)
            if left < 0:
                return extra
            sentences.append(sentence)
    return extra


def chapters_named(numbers: Collection[int]) -> str:
    """Chapter ids as an answer states them."""
    return ", ".join(f"Chapter {number}" for number in sorted(numbers))
