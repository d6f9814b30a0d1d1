"""What all story tasks can be told."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.fit import Room
from tasks.parameters import TaskParameters, whole
from tasks.seeding import Draw
from tasks.story.fitting import StoryBuilder
from tasks.story.narrative import chapters


@dataclass(frozen=True, kw_only=True)
class StoryParameters(TaskParameters):
    """Defaults are the paper's."""

    num_conversations: int = whole(3, most=20)
    """Conversation sentences in a chapter; fewer make chapters shorter, so that more of them fit."""


def build_story(parameters: StoryParameters, draw: Draw, room: Room) -> StoryBuilder:
    """A builder with its own stream, so that the questions' draws do not change the story."""
    return StoryBuilder(chapters(Draw("story", draw.below(2**62))), parameters.num_conversations, room)


def question_draw(salt: int, num_chapters: int) -> Draw:
    """The stream of a question about a story of so many chapters."""
    return Draw("question", salt, num_chapters)
