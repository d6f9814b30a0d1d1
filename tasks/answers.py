"""The one reader of answers: the answer block, numbered lines, and the normal forms that scorers compare."""

from __future__ import annotations

import re

ANSWER_OPENING = "<answer>"
_BLOCK = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_CLOSING = re.compile(r"</answer>", re.IGNORECASE)
_NUMBER = re.compile(r"\s*([0-9]{1,6})(?![0-9])\s*[.):-]?(.*)")
_ARTICLE = re.compile(r"^(?:the|an|a)\s+")


def read_answer(completion: str, *, primed: bool = False) -> str | None:
    """The text of the first answer block, stripped; None without one or with an empty one.

    When the prompt opened the block (`primed`), the completion begins inside it and may end without closing it.
    """
    if primed:
        body = re.sub(r"^\s*<answer>", "", completion, count=1, flags=re.IGNORECASE)
        found = _CLOSING.split(body, maxsplit=1)[0]
    else:
        match = _BLOCK.search(completion)
        found = match.group(1) if match else ""
    return found.strip() or None


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """Lines of the form "1. something", with their numbers; lines of another form and empty statements are left out."""
    matches = (_NUMBER.match(line) for line in text.splitlines())
    found = ((int(match.group(1)), match.group(2).strip()) for match in matches if match)
    return [(number, statement) for number, statement in found if statement]


def numbered_items(text: str) -> dict[int, str]:
    """Statement by number; the first line counts for each number."""
    items: dict[int, str] = {}
    for number, statement in numbered_lines(text):
        items.setdefault(number, statement)
    return items


def plain(text: str) -> str:
    """Lower case, single spaces, no blanks at the ends."""
    return " ".join(text.lower().split())


def without_article(text: str) -> str:
    """Lower case, single spaces, without a leading article and without a final full stop."""
    return _ARTICLE.sub("", plain(text)).rstrip(" .")


def overlap(found: set[str], gold: set[str]) -> float:
    """Intersection over union; 0 for two empty sets."""
    union = found | gold
    return len(found & gold) / len(union) if union else 0.0
