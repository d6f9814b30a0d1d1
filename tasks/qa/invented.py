"""Articles about towns, ships, composers, huts and companies that do not exist, from our own sentence templates.

They fill long contexts and carry questions like the written passages; no model can know their answers beforehand. The
templates lie in data/invented.json: for each kind of article a list of facts with their sentence and question.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from tasks.qa.articles import DATA_FOLDER, LETTERS, Article, ChoiceQuestion, SpanQuestion
from tasks.seeding import Draw


@dataclass(frozen=True, slots=True)
class Fact:
    """A sentence with one fact, and the question about it."""

    sentence: str
    question: str
    answer: str
    others: tuple[str, ...]
    """Three wrong options of the same kind."""


def invented_articles(count: int) -> list[Article]:
    """The first `count` articles; a larger count only adds articles."""
    return [_article(number) for number in range(count)]


@cache
def templates() -> dict[str, Any]:
    """The word lists and fact templates."""
    known: dict[str, Any] = json.loads((DATA_FOLDER / "invented.json").read_text("utf-8"))
    return known


def _article(number: int) -> Article:
    draw = Draw("invented article", number)
    known = templates()
    name = draw.choice(known["starts"]) + draw.choice(known["middles"]) + draw.choice(known["ends"])
    kinds = list(known["kinds"].values())
    facts = [_fact(row, name, draw) for row in kinds[number % len(kinds)]]
    asked = draw.pick(facts, 4)
    told = " ".join(fact.sentence for fact in draw.shuffled(facts))
    return Article(
        title=f"{name} {number}",
        text=f"Number {number} of the register is {name}. {told}",
        spans=tuple(SpanQuestion(fact.question, (fact.answer,)) for fact in asked[:2]),
        choices=tuple(_choice(fact, draw) for fact in asked[2:]),
    )


def _fact(row: dict[str, Any], name: str, draw: Draw) -> Fact:
    answer, *others = _values(row["value"], draw)
    sentence = row["sentence"].format(name=name, value=answer)
    return Fact(sentence, row["question"].format(name=name), answer, tuple(others))


def _values(kind: Any, draw: Draw) -> list[str]:
    """Four different values: of a named list, of a range of numbers, or names of persons."""
    known = templates()
    if isinstance(kind, list):
        low, high = kind
        return [str(low + value) for value in draw.pick(range(high - low), 4)]
    if kind == "person":
        names = draw.pick(known["given"], 4)
        return [f"{given} {draw.choice(known['starts'])}{draw.choice(known['ends'])}" for given in names]
    return draw.pick(known["lists"][kind], 4)


def _choice(fact: Fact, draw: Draw) -> ChoiceQuestion:
    options = draw.shuffled([fact.answer, *fact.others])
    return ChoiceQuestion(fact.question, tuple(options), LETTERS[options.index(fact.answer)])
