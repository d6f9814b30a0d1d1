"""Where a text may be cut so that the parts encode like the whole: before spaces, and at line ends after a word."""

from __future__ import annotations

from collections.abc import Sequence


def cut_at_spaces(segments: Sequence[str], after: list[str] | None = None) -> list[str]:
    """The same text in pieces that begin at a cut, keeping the segments' own boundaries where they are cuts.

    A segment that does not begin at a cut gives its first word to the piece before it, which may be the last one of
    `after` (that list is then changed in place); nothing is lost or added.
    """
    pieces: list[str] = []
    before = pieces if after is None else after
    for segment in segments:
        if not segment:
            continue
        if before and not (segment[0] == " " and segment[1:2].strip() and not before[-1][-1].isspace()):
            segment = _give_first_word(before, segment)
            if not segment:
                continue
        pieces.append(segment)
        before = pieces
    return pieces


def without_leading_space(segments: list[str]) -> list[str]:
    """The same segments, the first one without the space before its first word."""
    return [segments[0].removeprefix(" "), *segments[1:]] if segments else []


def _give_first_word(before: list[str], segment: str) -> str:
    """Move what stands before the first cut of `segment` to the last text of `before`; the rest."""
    position = 0 if _is_cut(before[-1], segment, 0) else _first_cut(segment)
    before[-1] += segment[:position]
    return segment[position:]


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
