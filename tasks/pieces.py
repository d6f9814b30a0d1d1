"""Where a text may be cut so that the parts encode like the whole: before spaces, and at line ends after a word."""

from __future__ import annotations

from collections.abc import Sequence


def cut_at_spaces(segments: Sequence[str], after: list[str] | None = None) -> list[str]:
    """The same text in pieces that begin at a cut, keeping the segments' own boundaries where they are cuts.

    A segment that does not begin at a cut gives its first word to the piece before it, which may be the last one of
    `after` (that list is then changed in place); nothing is lost or added.
    """
    pieces: list[str] = []
    for segment in segments:
        if not segment:
            continue
        before = pieces if pieces or after is None else after
        if not before or (segment[0] == " " and _is_cut(before[-1], segment, 0)):
            pieces.append(segment)
            continue
        position = 0 if _is_cut(before[-1], segment, 0) else _first_cut(segment)
        if position:
            before[-1] += segment[:position]
        if position < len(segment):
            pieces.append(segment[position:])
    return pieces


def _is_cut(left: str, right: str, position: int) -> bool:
    before = right[position - 1] if position else left[-1]
    here = right[position]
    if here == " ":
        return not before.isspace() and len(right) > position + 1 and not right[position + 1].isspace()
    return here == "\n" and before.isalnum()


def _first_cut(segment: str) -> int:
    position = segment.find(" ", 1)
    while position != -1 and not _is_cut("", segment, position):
        position = segment.find(" ", position + 1)
    return len(segment) if position == -1 else position
