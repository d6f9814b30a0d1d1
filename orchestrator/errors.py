"""Errors by what the reader can do next.

UserError                 fix the input; one line, exit code 2
├── SpecError             a place in a campaign file is wrong
├── ModelError            a model is missing or broken
└── StoreError            a store cannot be reached, or is of another revision
"""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """Something the user can mend; its text is the one line that the command prints."""


class SpecError(UserError):
    """A wrong value in a campaign file, with its place."""

    def __init__(
        self,
        message: str,
        *,
        path: Path | str = "",
        line: int = 0,
        column: int = 1,
        at: tuple[str | int, ...] = (),
    ) -> None:
        place = f"{path}:{line}:{column}: " if line else f"{path}: " if path else ""
        super().__init__(f"{place}{message}")
        self.message, self.path, self.line, self.column = message, str(path), line, column
        self.at = at
        """Keys and indices that lead to the value, while its line is not known yet."""


class ModelError(UserError):
    """A model folder is missing, incomplete or of another checksum."""


class StoreError(UserError):
    """The store cannot be reached, is not a frontier store, or has another schema revision."""
