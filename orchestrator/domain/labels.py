"""Names that a person gives to models, methods and tasks: they stand in tables, plots and file names."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, StrictStr

from orchestrator.domain.problems import problem

MOST_CHARACTERS = 200


def _checked(label: str) -> str:
    if not label.strip() or not label.isprintable() or len(label) > MOST_CHARACTERS:
        raise problem(f"a name is {label!r}; it must be one line of 1 to {MOST_CHARACTERS} printable characters")
    return label


Label = Annotated[StrictStr, AfterValidator(_checked)]
"""One printable line."""
