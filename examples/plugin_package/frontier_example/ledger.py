"""The task `ledger`: which amount does the ledger give for a name?"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.answers import read_answer
from tasks.fit import Room
from tasks.parameters import TaskParameters, whole
from tasks.prompts import PromptFrame, PromptWords, frame_prompt
from tasks.sample import Sample, SampleIdentity, Score, scored, unanswered
from tasks.seeding import Draw
from tasks.task import Draft, Task, too_short

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, kw_only=True)
class LedgerParameters(TaskParameters):
    """How hard it is."""

    num_digits: int = whole(4, least=1, most=9)
    """Digits of an amount."""


class LedgerTask(Task[LedgerParameters]):
    """One line a name; the answer is right when it is the amount of the name that was asked for."""

    name = "ledger"
    version = 1
    parameters_type = LedgerParameters
    default_max_output_tokens = 64

    def draft(self, parameters: LedgerParameters, draw: Draw, room: Room, identity: SampleIdentity) -> Draft:
        lines = [_line(draw, parameters) for _ in range(2)]
        frame = _frame(lines[0][0], parameters)
        left = room.left(frame) - sum(room.cost(text) for *_, text in lines)
        if left < 0:
            raise too_short(self.name, room.length_tokens, room.aim_tokens - left)
        asked = lines[0]
        while (left := left - room.cost((line := _line(draw, parameters))[2])) >= 0:
            if line[0] != asked[0]:
                lines.append(line)
        texts = draw.shuffled([text for *_, text in lines])
        return Draft(frame=frame, context=[texts[0].lstrip("\n"), *texts[1:]], gold=asked[1], gold_answer=asked[1])

    def judge(self, sample: Sample, completion: str, compat: bool) -> Score:
        found = read_answer(completion, primed=sample.primed)
        if found is None:
            return unanswered("no answer block")
        return scored(float(found.split()[0].rstrip(".") == sample.gold), found)


def _line(draw: Draw, parameters: LedgerParameters) -> tuple[str, str, str]:
    """A name, an amount and their line."""
    name, amount = draw.text(_LETTERS, 5), draw.text("123456789", parameters.num_digits)
    return name, amount, f"\nThe ledger gives {amount} for {name}."


def _frame(name: str, parameters: LedgerParameters) -> PromptFrame:
    words = PromptWords(
        introduction="The context is a ledger: each line gives an amount for a name.",
        question=f"Which amount does the ledger give for {name}?",
        answer_format="1234",
        rules=("Write the amount only.",),
        cue="The amount is",
    )
    return frame_prompt(words, parameters.reply)
