"""RULER variable tracking: which variables hold a number, directly or through a chain of copies?

Source: RULER (arXiv 2404.06654) in the variant of the Sparse Frontier (arXiv 2504.17768): 8 chains of 4 hops,
five-letter variables, five-digit integers, all assignments shuffled among repeated filler units.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from tasks.answers import overlap, read_answer
from tasks.fit import Room, num_fitting
from tasks.parameters import TaskParameters, flag, one_of, whole
from tasks.pieces import without_leading_space
from tasks.prompts import PromptFrame, PromptWords, frame_prompt
from tasks.ruler.filler import FILLER_SENTENCES, FILLER_UNIT
from tasks.sample import Sample, SampleIdentity, Score, scored, unanswered
from tasks.seeding import Draw
from tasks.task import Draft, Task, too_short

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, kw_only=True)
class ChainParameters(TaskParameters):
    """Defaults are the paper's."""

    num_chains: int = whole(8, least=1, most=200)
    """Chains of assignments; the first one is asked for, the others distract."""
    num_hops: int = whole(4, least=0, most=50)
    """Copies in each chain, so that a chain has `num_hops + 1` variables."""
    names: str = one_of("letters", ("letters", "short"))
    """`letters` are five random capitals; `short` are X1, X2, … in random order, easier to copy."""
    in_order: bool = flag(False)
    """Keep each chain's assignments in their order instead of shuffling them all."""


class Chain(NamedTuple):
    """Variables that all hold one integer; each but the first copies the one before it."""

    value: int
    variables: tuple[str, ...]

    @property
    def assignments(self) -> list[str]:
        """The sentences of the context, with the space before them."""
        sources = [str(self.value), *(f"VAR {name}" for name in self.variables)]
        return [f" VAR {name} = {source}." for name, source in zip(self.variables, sources, strict=False)]


class VariableTrackingTask(Task[ChainParameters]):
    """Name all variables of one chain; value = intersection over union with the right set."""

    name = "ruler_vt"
    parameters_type = ChainParameters

    def draft(self, parameters: ChainParameters, draw: Draw, room: Room, identity: SampleIdentity) -> Draft:
        chains = _chains(parameters, draw)
        frame = _frame(parameters, chains[0])
        assignments = [sentence for chain in chains for sentence in chain.assignments]
        left = room.left(frame) - sum(room.cost(sentence) for sentence in assignments)
        if left < 0:
            raise too_short(self.name, room.length_tokens, room.aim_tokens - left)
        placed = _mix(assignments, _filler(room, left), parameters.in_order, draw)
        gold = list(chains[0].variables)
        return Draft(frame=frame, context=without_leading_space(placed), gold=gold, gold_answer=" ".join(gold))

    def judge(self, sample: Sample, completion: str, compat: bool) -> Score:
        found = read_answer(completion, primed=sample.primed)
        if found is None and compat:
            found = completion.strip() or None
        if found is None:
            return unanswered("no answer block")
        names = set(re.sub(r"\bVAR\s", " ", found.upper()).split())
        value = overlap(names, set(sample.gold))
        return scored(value, found, f"{len(names & set(sample.gold))} of {len(sample.gold)}, {len(names)} named")


def _frame(parameters: ChainParameters, asked: Chain) -> PromptFrame:
    words = PromptWords(
        introduction=(
            "The context holds assignments to variables among other sentences. A variable is given a number, or it is "
            "given the value of another variable. Trace the assignments, in whatever order they stand."
        ),
        question=f"Which variables have the value {asked.value}, directly or through other variables?",
        answer_format="NAME1 NAME2 …" if len(asked.variables) > 1 else "NAME1",
        rules=("List the variables' names only, separated by spaces.", "Their order does not matter."),
        cue="VAR",
        primed_format=True,
    )
    return frame_prompt(words, parameters.reply)


def _chains(parameters: ChainParameters, draw: Draw) -> list[Chain]:
    size = parameters.num_hops + 1
    names = _names(parameters, draw, parameters.num_chains * size)
    values = [10_000 + value for value, _ in zip(draw.distinct(89_999), range(parameters.num_chains), strict=False)]
    return [Chain(value, tuple(names[at * size : (at + 1) * size])) for at, value in enumerate(values)]


def _names(parameters: ChainParameters, draw: Draw, count: int) -> list[str]:
    if parameters.names == "short":
        return draw.shuffled([f"X{number}" for number in range(1, count + 1)])
    names: dict[str, None] = {}
    while len(names) < count:
        names[draw.text(_LETTERS, 5)] = None
    return list(names)


def _filler(room: Room, left: int) -> list[str]:
    """Whole filler units, and the first sentences of one more."""
    num_units, rest = divmod(left, room.cost(FILLER_UNIT))
    num_sentences = num_fitting((room.cost(sentence) for sentence in FILLER_SENTENCES), rest)
    partial = "".join(FILLER_SENTENCES[:num_sentences])
    return [FILLER_UNIT] * num_units + ([partial] if partial else [])


def _mix(assignments: list[str], filler: list[str], in_order: bool, draw: Draw) -> list[str]:
    mixed = draw.shuffled(assignments + filler)
    if not in_order:
        return mixed
    ordered = iter(assignments)
    known = set(assignments)
    return [next(ordered) if sentence in known else sentence for sentence in mixed]
