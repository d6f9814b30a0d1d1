"""Errors that say where in the spec they are."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from pydantic_core import PydanticCustomError


def problem(message: str, *at: str | int) -> PydanticCustomError:
    """An error at the path `at` below the value being validated."""
    # Braces would be read as placeholders of the message template.
    return PydanticCustomError("spec", "{text}", {"text": message, "at": list(at)})


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` when one of `known` is close to `word`, else an empty string."""
    close = get_close_matches(word, [str(name) for name in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
