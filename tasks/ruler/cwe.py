"""RULER common words extraction: which ten words of a long numbered list occur most often?

Source: RULER (arXiv 2404.06654) in the variant of the Sparse Frontier (arXiv 2504.17768): 10 common words 30 times
each, as many rare words as fit 3 times each, shuffled. When the vocabulary runs out, compounds of two words go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tasks.answers import numbered_lines, overlap, read_answer
from tasks.errors import ParameterError
from tasks.fit import Room
from tasks.parameters import TaskParameters, whole
from tasks.prompts import PromptFrame, PromptWords, frame_prompt
from tasks.ruler.words import vocabulary, vocabulary_hash
from tasks.sample import Sample, SampleIdentity, Score, scored, unanswered
from tasks.seeding import Draw
from tasks.task import Draft, Task, too_short


@dataclass(frozen=True, kw_only=True)
class CommonWordsParameters(TaskParameters):
    """Defaults are the paper's."""

    num_common_words: int = whole(10, least=1, most=100)
    common_word_frequency: int = whole(30, least=2, most=1000)
    rare_word_frequency: int = whole(3, least=1, most=999)

    def __post_init__(self) -> None:
        if self.rare_word_frequency >= self.common_word_frequency:
            raise ParameterError(
                f"rare_word_frequency ({self.rare_word_frequency}) must be below "
                f"common_word_frequency ({self.common_word_frequency})"
            )


class CommonWordsTask(Task[CommonWordsParameters]):
    """Name the common words; value = intersection over union with the right set."""

    name = "ruler_cwe"
    parameters_type = CommonWordsParameters

    def identity_parameters(self, parameters: CommonWordsParameters) -> dict[str, Any]:
        return parameters.as_dict() | {"vocabulary": vocabulary_hash()}

    def draft(self, parameters: CommonWordsParameters, draw: Draw, room: Room, identity: SampleIdentity) -> Draft:
        words = _distinct_words(draw)
        common = [next(words) for _ in range(parameters.num_common_words)]
        frame = _frame(parameters)
        listed = common * parameters.common_word_frequency
        left = room.left(frame) - sum(room.cost(f" {word}") for word in listed) - _number_cost(room, 0, len(listed))
        if left < 0:
            raise too_short(self.name, room.length_tokens, room.aim_tokens - left)
        listed += _rare(parameters, words, room, left, len(listed))
        answer = "\n".join(f"{number}. {word}" for number, word in enumerate(common, 1))
        return Draft(frame=frame, context=_numbered(draw.shuffled(listed)), gold=common, gold_answer=answer)

    def judge(self, sample: Sample, completion: str, compat: bool) -> Score:
        found = read_answer(completion, primed=sample.primed)
        if found is None:
            return unanswered("no answer block")
        words = {text.lower() for _, text in numbered_lines(found)}
        gold = set(sample.gold)
        return scored(overlap(words, gold), found, f"{len(words & gold)} of {len(gold)}, {len(words)} named")


def _frame(parameters: CommonWordsParameters) -> PromptFrame:
    count = parameters.num_common_words
    words = PromptWords(
        introduction=(
            "The context is a numbered list of words in which some words occur much more often than the others. "
            "Find the words that occur most often."
        ),
        question=f"Which {'word occurs' if count == 1 else f'{count} words occur'} most often in the list?",
        answer_format="\n".join(f"{number}. <word>" for number in range(1, min(count, 3) + 1))
        + ("\n…" if count > 3 else ""),
        rules=(
            f"Write {count} numbered line{'s' if count > 1 else ''} with one word each; the order does not matter.",
            "Do not write a program; find the words yourself.",
        ),
        cue="1.",
    )
    return frame_prompt(words, parameters.reply)


def _distinct_words(draw: Draw) -> Iterator[str]:
    """The vocabulary in random order, then compounds of two different words of it, none twice."""
    words = vocabulary()
    yield from draw.shuffled(words)
    seen = set(words)
    while True:
        compound = draw.choice(words) + draw.choice(words)
        if compound not in seen:
            seen.add(compound)
            yield compound


def _rare(parameters: CommonWordsParameters, words: Iterator[str], room: Room, left: int, line: int) -> list[str]:
    """Rare words in all their copies, as many as fit after `line` lines."""
    rare: list[str] = []
    copies = parameters.rare_word_frequency
    for word in words:
        left -= copies * room.cost(f" {word}") + _number_cost(room, line, copies)
        if left < 0:
            return rare
        rare += [word] * copies
        line += copies
    return rare


def _number_cost(room: Room, line: int, count: int) -> int:
    """Tokens of the numbers of `count` lines after `line` lines."""
    return sum(room.cost(f"\n{number}.") for number in range(line + 1, line + count + 1))


def _numbered(words: list[str]) -> list[str]:
    segments: list[str] = []
    for number, word in enumerate(words, 1):
        segments += (f"{'' if number == 1 else chr(10)}{number}.", f" {word}")
    return segments
