"""Stories of many chapters, each with one place, one person, one purchase and now and then a sale.

Structure and sizes follow the Sparse Frontier (arXiv 2504.17768, story tasks); world and sentences are our own. A
chapter is drawn without regard to the others, except that pairs of place and person and things bought never repeat;
which earlier thing is sold is settled afterwards, so that a task may remove purchases first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod

from tasks.pieces import cut_at_spaces
from tasks.seeding import Draw
from tasks.story import templates as say
from tasks.story.world import ADJECTIVES, CHARACTERS, EVENTS, LOCATIONS, MATERIALS, TYPES

MAX_CHAPTERS = 2000
CHAPTER_BREAK = "\n\nChapter"


_STEPS = (1, 7, 11, 13, 17, 19, 23, 29)
"""Without a common divisor with the number of conversation sentences, so that a walk meets each once."""
_SIZES = (
    len(say.SCENE),
    len(say.REASON),
    len(say.EVENT),
    len(EVENTS),
    len(say.ENCOUNTER),
    len(say.CONVERSATION),
    len(_STEPS),
    len(say.PURCHASE),
    2,
    len(say.SALE),
    len(say.FAREWELL),
    len(say.CONCLUSION),
    len(say.CLOSING),
    2**40,
)
"""Numbers of choices in a chapter; one draw below their product makes them all."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """What happens in a chapter, and the sentences chosen to tell it."""

    location: str
    character: str
    item: str
    """Without article, for example "dented copper bell"."""
    opening: tuple[str, ...]
    """Scene, reason, event, encounter."""
    conversation_start: int
    conversation_step: int
    purchase: str
    sale: str | None
    """Template of the sale, if the chapter has one."""
    sale_pick: int
    """Which of the things then owned is sold, modulo their number."""
    ending: tuple[str, ...]
    """Farewell, then conclusion and closing."""

    def conversation(self, number: int) -> str:
        """The sentence of this number, from 0; none repeats within a chapter."""
        return say.CONVERSATION[(self.conversation_start + number * self.conversation_step) % len(say.CONVERSATION)]


def chapters(draw: Draw) -> Iterator[Chapter]:
    """Up to MAX_CHAPTERS different chapters."""
    meetings = draw.distinct(len(LOCATIONS) * len(CHARACTERS))
    items = draw.distinct(len(ADJECTIVES) * len(MATERIALS) * len(TYPES))
    for meeting, item in islice(zip(meetings, items, strict=False), MAX_CHAPTERS):
        place, person = divmod(meeting, len(CHARACTERS))
        yield _chapter(_choices(draw), LOCATIONS[place], CHARACTERS[person], _item(item))


def _choices(draw: Draw) -> list[int]:
    """A uniform choice for each of _SIZES."""
    rest = draw.below(prod(_SIZES))
    chosen = []
    for size in _SIZES:
        rest, choice = divmod(rest, size)
        chosen.append(choice)
    return chosen


def _chapter(chosen: list[int], place: str, person: str, item: str) -> Chapter:
    (scene, reason, event, event_name, encounter, start, step, purchase, sells, sale, farewell, conclusion, closing,
     sale_pick) = chosen  # fmt: skip
    return Chapter(
        location=place,
        character=person,
        item=item,
        opening=(
            say.SCENE[scene].replace("{place}", place),
            say.REASON[reason],
            say.EVENT[event].replace("{event}", EVENTS[event_name]),
            say.ENCOUNTER[encounter].replace("{person}", person),
        ),
        conversation_start=start,
        conversation_step=_STEPS[step],
        purchase=say.PURCHASE[purchase],
        sale=say.SALE[sale] if sells else None,
        sale_pick=sale_pick,
        ending=(
            say.FAREWELL[farewell].replace("{person}", person),
            f"{say.CONCLUSION[conclusion]} {say.CLOSING[closing]}",
        ),
    )


def _item(number: int) -> str:
    rest, kind = divmod(number, len(TYPES))
    adjective, material = divmod(rest, len(MATERIALS))
    return f"{ADJECTIVES[adjective]} {MATERIALS[material]} {TYPES[kind]}"


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
    """A chapter's text in pieces, from the space before its number to the next chapter's heading word."""
    conversation = [chapter.conversation(at) for at in range(num_conversations)]
    segments = [f" {number}:\n", chapter.opening[0]]
    segments += [f" {sentence}" for sentence in (*chapter.opening[1:], *conversation)]
    if buys:
        segments += _with_item(chapter.purchase, chapter.item)
    if sold is not None and chapter.sale is not None:
        segments += _with_item(chapter.sale, sold)
    segments += [f" {sentence}" for sentence in chapter.ending]
    return cut_at_spaces([*segments, CHAPTER_BREAK])


def _with_item(template: str, item: str) -> list[str]:
    """The sentence in small segments that recur between samples: words before, adjective, thing, words after."""
    before, _, after = template.partition("{item}")
    adjective, _, thing = item.partition(" ")
    article = "an" if adjective[0] in "aeiou" else "a"
    return [f" {before}{article}", f" {adjective}", f" {thing}", after]
