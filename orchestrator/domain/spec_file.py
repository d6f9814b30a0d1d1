"""Read a campaign file. Every error is one line with file, line and column."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import count
from math import inf
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from orchestrator.domain.grid import Cell, Describe, expand
from orchestrator.domain.problems import did_you_mean
from orchestrator.domain.spec import CampaignSpec, YarnRope
from orchestrator.errors import SpecError

Place = tuple[int, int]

MOST_VALUES = 200_000
"""Values in a campaign file with its aliases written out; more is a mistake, or made to fill the memory."""


def read_text(path: Path) -> str:
    """The file's text. Raises SpecError naming the file when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"cannot read: {error.strerror or error}", path=path) from None
    except UnicodeDecodeError as error:
        raise SpecError(f"not UTF-8 text: {error.reason} at byte {error.start}", path=path) from None


def load_spec(path: Path) -> CampaignSpec:
    """The spec in `path`. Raises SpecError naming the first wrong value and its place."""
    return parse_spec(read_text(path), path)


def load_cells(path: Path, describe: Describe) -> tuple[CampaignSpec, list[Cell]]:
    """The spec in `path` and its cells. Raises SpecError, also for what only the grid can see, with its place."""
    spec = load_spec(path)
    return spec, cells_of(spec, path, describe)


def cells_of(spec: CampaignSpec, path: Path, describe: Describe) -> list[Cell]:
    """The cells of a spec that was read from `path`. Raises SpecError with the place in that file."""
    try:
        return expand(spec, describe)
    except SpecError as error:
        line, column = place_of(_parse_yaml(read_text(path), path), error.at)
        raise SpecError(error.message, path=path, line=line, column=column) from None


def parse_spec(text: str, path: Path | str = "spec") -> CampaignSpec:
    """The spec in `text`; `path` only names it in errors."""
    tree = _parse_yaml(text, path)
    try:
        plain = _plain(tree, count(1))
        spec = CampaignSpec.model_validate(plain)
        _refuse_what_no_store_holds(plain, tree)
        return spec
    except _Misshapen as error:
        raise SpecError(error.message, path=path, line=error.place[0], column=error.place[1]) from None
    except ValidationError as error:
        first = _most_telling(error.errors())
        line, column = place_of(tree, _path(first))
        raise SpecError(_message(first, tree), path=path, line=line, column=column) from None


def place_of(tree: Any, path: Sequence[str | int]) -> Place:
    """Line and column (from 1) of the deepest part of `path` that the YAML tree has."""
    place = (1, 1)
    for step in path:
        found = _step(tree, step)
        if found is None:
            return place
        tree, place = found
    return place


def _step(tree: Any, step: str | int) -> tuple[Any, Place] | None:
    marks = getattr(tree, "lc", None)
    if marks is None:
        return None
    if isinstance(tree, dict) and step in tree:
        line, column = marks.key(step)
        return tree[step], (line + 1, column + 1)
    if isinstance(tree, list) and isinstance(step, int) and step < len(tree):
        line, column = marks.item(step)
        return tree[step], (line + 1, column + 1)
    return None


def _parse_yaml(text: str, path: Path | str) -> Any:
    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = " ".join((error.problem or str(error)).split()).split(" with value")[0]
        raise SpecError(
            f"YAML: {words}", path=path, line=mark.line + 1 if mark else 1, column=mark.column + 1 if mark else 1
        ) from None
    except RecursionError:
        raise SpecError("YAML: lists or mappings nest too deep", path=path, line=1) from None
    except (YAMLError, ValueError, KeyError, TypeError) as error:
        # ruamel's constructors let Python's own errors through: !!bool abc is a KeyError, a list as a key a TypeError.
        line, column = _place_in(text, getattr(error, "position", 0))
        words = f"{error} does not fit its tag" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise SpecError(f"YAML: {words}", path=path, line=line, column=column) from None
    if not isinstance(tree, dict):
        raise SpecError("a campaign file is a mapping with name, models, methods, tasks, lengths", path=path, line=1)
    return tree


class _Misshapen(Exception):
    """The tree can be no campaign: it is larger than any, or a key of it is no name."""

    def __init__(self, message: str, place: Place = (1, 1)) -> None:
        super().__init__(message)
        self.message, self.place = message, place


def _place_in(text: str, position: Any) -> Place:
    """Line and column (from 1) of the character at `position`, or the first when it is unknown."""
    before = text[:position] if isinstance(position, int) else ""
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _plain(node: Any, values: Iterator[int]) -> Any:
    """The tree as plain dicts, lists and scalars, without ruamel's own number and string classes.

    `values` counts them. Raises _Misshapen.
    """
    if next(values) > MOST_VALUES:
        raise _Misshapen(f"more than {MOST_VALUES:,} values, with aliases written out")
    if isinstance(node, dict):
        for key in node:
            if not isinstance(key, (str, int, float, type(None))):
                line, column = node.lc.key(key)  # type: ignore[attr-defined]
                raise _Misshapen(f"a key is {str(key)!r}; it must be a name", (line + 1, column + 1))
        return {_plain(key, values): _plain(value, values) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_plain(value, values) for value in node]
    for kind in (bool, int, float):
        if isinstance(node, kind):
            return kind(node)
    return _whole_characters(str(node)) if isinstance(node, str) else node


def _whole_characters(text: str) -> str:
    """JSON writes a character beyond the first plane as two escapes, which YAML reads as two halves."""
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        return text


def _refuse_what_no_store_holds(node: Any, tree: Any, path: tuple[str | int, ...] = ()) -> None:
    """Raises _Misshapen: PostgreSQL takes no NUL or half a character in a text, and JSON no NaN, infinity or date."""
    if isinstance(node, dict):
        for key, value in node.items():
            _refuse_what_no_store_holds(key, tree, (*path, key))
            _refuse_what_no_store_holds(value, tree, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            _refuse_what_no_store_holds(value, tree, (*path, index))
    elif not _is_storable(node):
        where = ".".join(map(str, path))
        raise _Misshapen(f"{where} is {node!r}; it must be text, a finite number, true or false", place_of(tree, path))


def _is_storable(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
    return value is None or (isinstance(value, (int, float)) and abs(value) < inf)


def _most_telling(errors: list[ErrorDetails]) -> ErrorDetails:
    """The error to show: the first, but of a union's alternatives the one that got furthest into the value."""
    head = errors[0]["loc"][:2]
    return max((e for e in errors if e["loc"][:2] == head), key=lambda e: len(_path(e)))


def _path(error: ErrorDetails) -> list[str | int]:
    at = (error.get("ctx") or {}).get("at", [])
    return [*error["loc"], *at]


def _message(error: ErrorDetails, tree: Any) -> str:
    if error["type"] == "spec":
        return error["msg"]
    where = _written_path(error, tree)
    key = str(error["loc"][-1]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        return f"unknown key {key!r}{did_you_mean(key, _siblings(error))}"
    if error["type"] == "missing":
        return f"{where} is missing"
    return f"{where} is {error['input']!r}: {_in_words_of_yaml(error['msg'])}"


def _in_words_of_yaml(told: str) -> str:
    """Pydantic's complaint with the names that a campaign file has for things."""
    told = re.sub(r"dictionary( or (an )?instance of \w+)?", "mapping", told)
    told = re.sub(r"\b([Tt])uple\b", lambda found: "List" if found[1] == "T" else "list", told)
    return (told[0].lower() + told[1:]).replace(" after validation, not 0", "")


def _written_path(error: ErrorDetails, tree: Any) -> str:
    """The path as the user wrote it: pydantic's names of union alternatives are left out."""
    steps = list(error["loc"])
    if error["type"] == "missing":
        return ".".join(map(str, [step for step in steps if step != YarnRope.__name__]))
    while len(steps) > 1 and not _has(tree, steps):
        steps.pop()
    return ".".join(map(str, steps))


def _has(tree: Any, path: Sequence[str | int]) -> bool:
    for step in path:
        found = _step(tree, step)
        if found is None:
            return False
        tree = found[0]
    return True


def _siblings(error: ErrorDetails) -> list[str]:
    from orchestrator.domain.spec import ModelEntry, Sampling
    from orchestrator.domain.task_entry import TaskEntry

    owners = {"models": ModelEntry, "tasks": TaskEntry, "sampling": Sampling}
    top = str(error["loc"][0])
    owner: Any = owners.get(top, CampaignSpec) if len(error["loc"]) > 1 else CampaignSpec
    return list(owner.model_fields)
