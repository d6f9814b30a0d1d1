"""Stories of many chapters, each with one place, one person, one purchase and now and then a sale.

Structure and sizes follow the Sparse Frontier (arXiv 2504.17768, story tasks); world and sentences are our own. A
chapter is drawn without regard to the others, except that pairs of place and person and things bought never repeat;
which earlier thing is sold is settled afterwards, so that a task may remove purchases first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from tasks.fit import Room
from tasks.pieces import cut_at_spaces
from tasks.seeding import Draw
from tasks.story import templates as say
from tasks.story.world import ADJECTIVES, CHARACTERS, EVENTS, LOCATIONS, MATERIALS, TYPES

MAX_CHAPTERS = 2000
CHAPTER_BREAK = "\n\nChapter"


@dataclass(frozen=True, slots=True)
class Chapter:
    """What happens in a chapter, and the sentences chosen to tell it."""

    location: str
    character: str
    item: str
    """Without article, for example "dented copper bell"."""
    opening: tuple[str, ...]
    """Scene, reason, event, encounter."""
    conversation: tuple[str, ...]
    """All conversation sentences in random order; the first ones are used."""
    purchase: str
    sale: str | None
    """Template of the sale, if the chapter has one."""
    sale_pick: int
    """Which of the things then owned is sold, modulo their number."""
    ending: tuple[str, ...]
    """Farewell, conclusion, closing."""


def chapters(draw: Draw) -> Iterator[Chapter]:
    """Up to MAX_CHAPTERS different chapters."""
    meetings = draw.distinct(len(LOCATIONS) * len(CHARACTERS))
    items = draw.distinct(len(ADJECTIVES) * len(MATERIALS) * len(TYPES))
    for meeting, item in islice(zip(meetings, items, strict=False), MAX_CHAPTERS):
        place, person = divmod(meeting, len(CHARACTERS))
        yield _chapter(draw, LOCATIONS[place], CHARACTERS[person], _item(item))


def _chapter(draw: Draw, place: str, person: str, item: str) -> Chapter:
    return Chapter(
        location=place,
        character=person,
        item=item,
        opening=(
            draw.choice(say.SCENE).format(place=place),
            draw.choice(say.REASON),
            draw.choice(say.EVENT).format(event=draw.choice(EVENTS)),
            draw.choice(say.ENCOUNTER).format(person=person),
        ),
        conversation=tuple(draw.shuffled(say.CONVERSATION)),
        purchase=draw.choice(say.PURCHASE),
        sale=draw.choice(say.SALE) if draw.chance(0.5) else None,
        sale_pick=draw.below(2**48),
        ending=(
            draw.choice(say.FAREWELL).format(person=person),
            draw.choice(say.CONCLUSION),
            draw.choice(say.CLOSING),
        ),
    )


def _item(number: int) -> str:
    rest, kind = divmod(number, len(TYPES))
    adjective, material = divmod(rest, len(MATERIALS))
    return f"{ADJECTIVES[adjective]} {MATERIALS[material]} {TYPES[kind]}"


def with_article(item: str) -> str:
    """The item as it stands in a sentence."""
    return f"{'an' if item[0] in 'aeiou' else 'a'} {item}"


def sales(story: Sequence[Chapter], unbought: Collection[int] = ()) -> list[str | None]:
    """The thing sold in each chapter, always one bought in an earlier chapter and still owned.

    Things of the chapters in `unbought` (positions from 0) are never owned.
    """
    owned: list[str] = []
    sold: list[str | None] = []
    for position, chapter in enumerate(story):
        has_sale = chapter.sale is not None and owned
        sold.append(owned.pop(chapter.sale_pick % len(owned)) if has_sale else None)
        if position not in unbought:
            owned.append(chapter.item)
    return sold


def tell(chapter: Chapter, number: int, sold: str | None, num_conversations: int, *, buys: bool) -> list[str]:
    """A chapter's text in segments, from the space before its number to the next chapter's heading word."""
    segments = [f" {number}:\n", chapter.opening[0]]
    segments += [f" {sentence}" for sentence in (*chapter.opening[1:], *chapter.conversation[:num_conversations])]
    if buys:
        segments += _with_item(chapter.purchase, chapter.item)
    if sold is not None and chapter.sale is not None:
        segments += _with_item(chapter.sale, sold)
    segments += [f" {sentence}" for sentence in chapter.ending]
    return [*segments, CHAPTER_BREAK]


def cost_of(segments: Sequence[str], room: Room) -> int:
    """Tokens of a chapter inside a story."""
    return sum(room.cost(piece) for piece in cut_at_spaces(segments))


def _with_item(template: str, item: str) -> list[str]:
    """The sentence in small segments that recur between samples: words before, each word of the item, words after."""
    before, _, after = template.partition("{item}")
    words = [f" {word}" for word in with_article(item).split(" ")]
    first = f" {before.rstrip()}" if before.strip() else ""
    return [first, *words, after]
