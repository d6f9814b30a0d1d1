"""Read a campaign file. Every error is one line with file, line and column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from orchestrator.domain.grid import Cell, Describe, expand
from orchestrator.domain.problems import did_you_mean
from orchestrator.domain.spec import CampaignSpec
from orchestrator.errors import SpecError

Place = tuple[int, int]


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
    text = read_text(path)
    spec = parse_spec(text, path)
    try:
        return spec, expand(spec, describe)
    except SpecError as error:
        line, column = place_of(_parse_yaml(text, path), error.at)
        raise SpecError(error.message, path=path, line=line, column=column) from None


def parse_spec(text: str, path: Path | str = "spec") -> CampaignSpec:
    """The spec in `text`; `path` only names it in errors."""
    tree = _parse_yaml(text, path)
    try:
        return CampaignSpec.model_validate(_plain(tree))
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
    except (YAMLError, ValueError) as error:
        raise SpecError(f"YAML: {' '.join(str(error).split())}", path=path, line=1, column=1) from None
    if not isinstance(tree, dict):
        raise SpecError("a campaign file is a mapping with name, models, methods, tasks, lengths", path=path, line=1)
    return tree


def _plain(node: Any) -> Any:
    """The tree as plain dicts, lists and scalars, without ruamel's own number and string classes."""
    if isinstance(node, dict):
        return {_plain(key): _plain(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_plain(value) for value in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


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
    return f"{where} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _written_path(error: ErrorDetails, tree: Any) -> str:
    """The path as the user wrote it: pydantic's names of union alternatives are left out."""
    steps = list(error["loc"])
    if error["type"] == "missing":
        return ".".join(map(str, steps))
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
