"""Story retrieval: facts of numbered chapters, many at once (Sparse Frontier, arXiv 2504.17768)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tasks.answers import numbered_items, read_answer, without_article
from tasks.fit import Room
from tasks.parameters import whole
from tasks.prompts import PromptFrame, PromptWords, frame_prompt
from tasks.sample import Sample, SampleIdentity, Score, scored, unanswered
from tasks.seeding import Draw
from tasks.story.fitting import Asked, fit_story
from tasks.story.narrative import Chapter
from tasks.story.parameters import StoryParameters, build_story, question_draw
from tasks.story.world import PROTAGONIST
from tasks.task import Draft, Task


@dataclass(frozen=True, kw_only=True)
class RetrievalParameters(StoryParameters):
    """Defaults are the paper's."""

    num_queries: int = whole(16, least=1, most=64)
    """Questions, each about another chapter."""


class _Query(NamedTuple):
    question: str
    answer: str


_ASKED = {
    "location": f"Which place did {PROTAGONIST} visit in Chapter {{number}}?",
    "character": f"Whom did {PROTAGONIST} meet in Chapter {{number}}?",
    "item": f"Which item did {PROTAGONIST} buy in Chapter {{number}}?",
}


class RetrievalTask(Task[RetrievalParameters]):
    """Answer `num_queries` questions about places, people and purchases; value = share of right answers."""

    name = "story_retrieval"
    parameters_type = RetrievalParameters
    approximation_window = 512

    def draft(self, parameters: RetrievalParameters, draw: Draw, room: Room, identity: SampleIdentity) -> Draft:
        builder = build_story(parameters, draw, room)
        salt = draw.below(2**62)

        def ask(story: Sequence[Chapter]) -> Asked:
            positions = _positions(parameters, salt, len(story))
            return Asked(_frame(parameters, _queries(story, positions, salt)), positions)

        asked, context = fit_story(self.name, builder, ask, parameters.num_queries)
        gold = [query.answer for query in _queries(builder.chapters, asked.about, salt)]
        answer = "\n".join(f"{number}. {text}" for number, text in enumerate(gold, 1))
        extras = {"chapters": [at + 1 for at in asked.about]}
        return Draft(frame=asked.frame, context=context, gold=gold, gold_answer=answer, extras=extras)

    def judge(self, sample: Sample, completion: str, compat: bool) -> Score:
        found = read_answer(completion, primed=sample.primed)
        if found is None and compat:
            found = completion.strip() or None
        if found is None:
            return unanswered("no answer block")
        items = numbered_items(found)
        right = [
            without_article(items.get(number, "")) == without_article(gold)
            for number, gold in enumerate(sample.gold, 1)
        ]
        return scored(sum(right) / len(right), found, f"{sum(right)} of {len(right)} answers")


def _positions(parameters: RetrievalParameters, salt: int, num_chapters: int) -> tuple[int, ...]:
    return tuple(question_draw(salt, num_chapters).pick(range(num_chapters), parameters.num_queries))


def _queries(story: Sequence[Chapter], positions: Sequence[int], salt: int) -> list[_Query]:
    draw = Draw("facets", salt)
    facets = [draw.choice(tuple(_ASKED)) for _ in positions]
    return [
        _Query(_ASKED[facet].format(number=at + 1), without_article(getattr(story[at], facet)) if facet != "character"
               else story[at].character)
        for at, facet in zip(positions, facets, strict=True)
    ]  # fmt: skip


def _frame(parameters: RetrievalParameters, queries: list[_Query]) -> PromptFrame:
    count = len(queries)
    words = PromptWords(
        introduction=(
            f"The context is a story about {PROTAGONIST} in numbered chapters. In every chapter she visits one place, "
            "meets one person and buys one item. Answer the questions about single chapters."
        ),
        question="\n".join(f"{number}. {query.question}" for number, query in enumerate(queries, 1)),
        answer_format="\n".join(f"{number}. <answer {number}>" for number in range(1, min(count, 3) + 1))
        + ("\n…" if count > 3 else ""),
        rules=(
            f"Write {count} numbered line{'s' if count > 1 else ''}, one for each question, in their order.",
            "Name places, people and items exactly as the story names them, without further words.",
        ),
        cue="1.",
        plural=True,
    )
    return frame_prompt(words, parameters.reply)
