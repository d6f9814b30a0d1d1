"""Story multi-hop: which item was bought right before another one? (Sparse Frontier, arXiv 2504.17768)."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.answers import read_answer, without_article
from tasks.fit import Room
from tasks.prompts import PromptFrame, PromptWords, frame_prompt
from tasks.sample import Sample, SampleIdentity, Score, scored, unanswered
from tasks.seeding import Draw
from tasks.story.fitting import Asked, fit_story
from tasks.story.narrative import Chapter
from tasks.story.parameters import StoryParameters, build_story, question_draw
from tasks.story.world import PROTAGONIST
from tasks.task import Draft, Task


class MultihopTask(Task[StoryParameters]):
    """Name the purchase of the chapter before the one with a given purchase; value = exact match."""

    name = "story_multihop"
    parameters_type = StoryParameters

    def draft(self, parameters: StoryParameters, draw: Draw, room: Room, identity: SampleIdentity) -> Draft:
        builder = build_story(parameters, draw, room)
        salt = draw.below(2**62)

        def ask(story: Sequence[Chapter]) -> Asked:
            position = 1 + question_draw(salt, len(story)).below(len(story) - 1)
            return Asked(_frame(parameters, story[position].item), (position,))

        asked, context = fit_story(self.name, builder, ask, least=2)
        gold = builder.chapters[asked.about[0] - 1].item
        extras = {"chapter": asked.about[0] + 1}
        return Draft(frame=asked.frame, context=context, gold=gold, gold_answer=gold, extras=extras)

    def judge(self, sample: Sample, completion: str, compat: bool) -> Score:
        found = read_answer(completion, primed=sample.primed)
        if found is None:
            return unanswered("no answer block", dropped=compat)
        same = without_article(found) == without_article(sample.gold)
        return scored(float(same), found, "the gold item" if same else "another item")


def _frame(parameters: StoryParameters, item: str) -> PromptFrame:
    words = PromptWords(
        introduction=(
            f"The context is a story about {PROTAGONIST} in numbered chapters. In every chapter she buys exactly one "
            "item. She may sell an item later, which does not matter here."
        ),
        question=f"Which item did {PROTAGONIST} buy last before she bought the {item}?",
        answer_format="<item>",
        rules=("Name the item exactly as the story names it, without further words.",),
    )
    return frame_prompt(words, parameters.reply)
