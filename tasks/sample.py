"""The words of evaluation: a sample, its identity, and the score of a completion."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.seeding import identity_hash


class Verdict(enum.StrEnum):
    """What became of a completion."""

    CORRECT = "correct"
    """The answer earned the full value, 1."""
    INCORRECT = "incorrect"
    """An answer was found and earned less than 1; its partial credit is in the value."""
    UNANSWERED = "unanswered"
    """No answer was found. Counts as wrong under the default rules."""
    UNSCORED = "unscored"
    """We failed to judge it; excluded from means and counted apart."""


RULES = ("default", "sparse_frontier_v1")
"""`default` is honest; `sparse_frontier_v1` repeats the rules of the reference implementation, drop-outs included."""


@dataclass(frozen=True, slots=True)
class Score:
    """A judged completion."""

    verdict: Verdict
    value: float | None
    """In [0, 1]; None where the rules leave the sample out of the mean."""
    extracted: str = ""
    """The answer as it was read."""
    reason: str = ""
    """Why the value is what it is, in a few words."""


def scored(value: float, extracted: str, reason: str = "") -> Score:
    """A score for an answer that was found: correct at exactly 1, otherwise incorrect with its partial credit."""
    verdict = Verdict.CORRECT if value == 1.0 else Verdict.INCORRECT
    return Score(verdict, value, extracted, reason)


def unanswered(reason: str, *, dropped: bool = False) -> Score:
    """A score for a completion without an answer: 0, or out of the mean when `dropped`."""
    return Score(Verdict.UNANSWERED, None if dropped else 0.0, "", reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleIdentity:
    """All that a sample depends on; equal identities give equal bytes on any machine."""

    task: str
    version: int
    parameters: Mapping[str, Any]
    """Complete: defaults included, and the data set's content hash where there is one."""
    length_tokens: int
    tokenizer: str
    """Fingerprint of the tokenizer and its chat template."""
    seed: int
    index: int

    @property
    def key(self) -> str:
        """SHA-256 of the whole identity."""
        return identity_hash({name: getattr(self, name) for name in self.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One prompt with its gold answer."""

    key: str
    """Hash of the identity."""
    task: str
    index: int
    prompt: str
    """The user's message, before the chat template."""
    prompt_token_ids: tuple[int, ...]
    """After the chat template; what an engine gets."""
    tail_tokens: int
    """Tokens after the end of the context: repeated question, instructions, end of the template."""
    gold: Any
    """What the scorer compares with; JSON-able, shape given by the task."""
    gold_answer: str
    """The gold answer in the format that the prompt asks for, without tags."""
    num_gold_tokens: int
    """Length of a minimal reply with the gold answer, tags included."""
    primed: bool = False
    """The prompt already opens the answer block."""
    cue: str = ""
    """First words of the answer, when the prompt ends with them."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Facts about the sample (depths, document numbers); JSON-able."""

    @property
    def num_prompt_tokens(self) -> int:
        """Prompt length after the chat template."""
        return len(self.prompt_token_ids)

    @property
    def gold_completion(self) -> str:
        """A completion that scores 1 under either rules."""
        closed = f"{self.gold_answer}\n</answer>"
        if self.cue:
            return f" {closed.removeprefix(self.cue).lstrip()}"
        return closed if self.primed else f"<explanation>\nRead in the context.\n</explanation>\n<answer>\n{closed}"
