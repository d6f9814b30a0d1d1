"""Plain sentences that fill a context without saying anything that is asked for."""

from __future__ import annotations

FILLER_SENTENCES = (
    " The meadow is wide.",
    " The river is calm.",
    " The night is long.",
    " On we walk.",
    " Then home once more.",
)
FILLER_UNIT = "".join(FILLER_SENTENCES)
"""Five sentences, as in RULER's repeated filler, in our own words."""
