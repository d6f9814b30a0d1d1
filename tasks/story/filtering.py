"""Story filtering: in which chapters was nothing bought? (Sparse Frontier, arXiv 2504.17768).

By default the story stays consistent: what was never bought is never sold. `consistent: false` leaves such sales in, as
the reference implementation does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.answers import overlap, read_answer
from tasks.fit import Room
from tasks.parameters import flag, whole
from tasks.prompts import PromptFrame, PromptWords, frame_prompt
from tasks.sample import Sample, SampleIdentity, Score, scored, unanswered
from tasks.seeding import Draw
from tasks.story.fitting import Asked, chapters_named, fit_story
from tasks.story.narrative import Chapter
from tasks.story.parameters import StoryParameters, build_story, question_draw
from tasks.story.world import PROTAGONIST
from tasks.task import Draft, Task


@dataclass(frozen=True, kw_only=True)
class FilteringParameters(StoryParameters):
    """Defaults are the paper's, but for `consistent`."""

    chapters_in_question: int = whole(3, least=1, most=64)
    """Chapters whose purchase is left out."""
    consistent: bool = flag(True)
    """Never sell an item that was never bought; false repeats the reference's stories."""


class FilteringTask(Task[FilteringParameters]):
    """List the chapters without a purchase; value = intersection over union with the right set."""

    name = "story_filtering"
    parameters_type = FilteringParameters

    def draft(self, parameters: FilteringParameters, draw: Draw, room: Room, identity: SampleIdentity) -> Draft:
        builder = build_story(parameters, draw, room)
        salt = draw.below(2**62)
        frame = _frame(parameters)

        def ask(story: Sequence[Chapter]) -> Asked:
            chosen = question_draw(salt, len(story)).pick(range(len(story)), parameters.chapters_in_question)
            return Asked(frame, tuple(sorted(chosen)), frozenset(chosen), parameters.consistent)

        asked, context = fit_story(self.name, builder, ask, least=parameters.chapters_in_question + 1)
        gold = [at + 1 for at in asked.about]
        return Draft(frame=frame, context=context, gold=gold, gold_answer=chapters_named(gold))

    def judge(self, sample: Sample, completion: str, compat: bool) -> Score:
        found = read_answer(completion, primed=sample.primed)
        if found is None:
            return unanswered("no answer block", dropped=compat and not completion.strip())
        named = {number.lstrip("0") for number in re.findall(r"[0-9]+", found)}
        gold = {str(number) for number in sample.gold}
        return scored(overlap(named, gold), found, f"{len(named & gold)} of {len(gold)}, {len(named)} named")


def _frame(parameters: FilteringParameters) -> PromptFrame:
    count = parameters.chapters_in_question
    words = PromptWords(
        introduction=(
            f"The context is a story about {PROTAGONIST} in numbered chapters. In most chapters she buys an item. She "
            "may also sell an item, which does not matter here."
        ),
        question=f"There {'is 1 chapter' if count == 1 else f'are {count} chapters'} in which {PROTAGONIST} "
        f"does not buy anything. Which {'one is it' if count == 1 else 'ones are they'}?",
        answer_format=", ".join(["<chapter number>"] * min(count, 3)) + (", …" if count > 3 else ""),
        rules=("List the numbers of these chapters only, separated by commas.",),
        cue="Chapter",
    )
    return frame_prompt(words, parameters.reply)
