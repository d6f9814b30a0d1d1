"""The vocabulary of word tasks: nouns, adjectives and verbs of the `wonderwords` package, about 8,000 words."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib.resources import files

from tasks.errors import DataError

_LISTS = ("nounlist.txt", "adjectivelist.txt", "verblist.txt")


@cache
def vocabulary() -> tuple[str, ...]:
    """All words in alphabetic order, once each, without hyphens, spaces, accents or capitals."""
    try:
        assets = files("wonderwords") / "assets"
        lines = [line for name in _LISTS for line in (assets / name).read_text("utf-8").splitlines()]
    except (ModuleNotFoundError, OSError) as error:
        raise DataError(f"the word lists of the package wonderwords are missing: {error}") from error
    return tuple(
        sorted(
            {word for word in (line.strip() for line in lines) if word.isascii() and word.isalpha() and word.islower()}
        )
    )


@cache
def vocabulary_hash() -> str:
    """SHA-256 of the vocabulary; part of the identity of samples that use it."""
    return sha256("\n".join(vocabulary()).encode()).hexdigest()
