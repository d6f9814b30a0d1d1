"""Filling a prompt up to its target length without encoding the whole text again and again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate

from tasks.prompts import PromptFrame
from tasks.tokenizer import Tokenizer

LOWEST_SHARE = 0.95
"""A prompt must have at least this share of its target length, and at most all of it."""


class Room:
    """How many tokens a context may have, for one tokenizer and one target length."""

    def __init__(self, tokenizer: Tokenizer, length_tokens: int, aim_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.length_tokens = length_tokens
        """The target that was asked for."""
        self.aim_tokens = aim_tokens
        """The target that a draft should fill; differs after a draft that came out too long."""

    def left(self, frame: PromptFrame) -> int:
        """Tokens for the context between the frame's parts; negative when the frame alone is too long."""
        return self.aim_tokens - len(self.tokenizer.encode_prompt(frame.head, (), frame.tail, frame.opening).ids)

    def cost(self, piece: str) -> int:
        """Tokens of a piece inside a context; exact when the piece begins at a cut (see `tasks.pieces`)."""
        return len(self.tokenizer.piece(piece))

    @property
    def slack_tokens(self) -> int:
        """Tokens that a prompt may fall short of its target."""
        return int(self.length_tokens * (1 - LOWEST_SHARE))


def num_fitting(costs: Iterable[int], room_tokens: int) -> int:
    """How many of the costs, from the first on, fit into the room together."""
    totals = list(accumulate(costs))
    return bisect_right(totals, room_tokens)


def in_window(num_tokens: int, length_tokens: int) -> bool:
    """Whether a prompt of `num_tokens` is long enough and not too long for its target."""
    return LOWEST_SHARE * length_tokens <= num_tokens <= length_tokens
