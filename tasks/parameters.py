"""Parameters of a task: frozen dataclasses whose fields carry their limits; strangers are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from tasks.errors import ParameterError


def whole(default: int, *, least: int = 0, most: int = 10**9) -> Any:
    """An integer field with its range."""
    return dataclasses.field(default=default, metadata={"kind": int, "least": least, "most": most})


def fraction(default: float | None) -> Any:
    """A field in [0, 1]; None, where it is the default, stays allowed."""
    meta = {"kind": float, "least": 0.0, "most": 1.0, "optional": default is None}
    return dataclasses.field(default=default, metadata=meta)


def one_of(default: str, options: tuple[str, ...]) -> Any:
    """A word out of a list."""
    return dataclasses.field(default=default, metadata={"kind": str, "options": options})


def text(default: str) -> Any:
    """Any non-empty text."""
    return dataclasses.field(default=default, metadata={"kind": str})


def optional_text() -> Any:
    """Any text; empty where nothing is said."""
    return dataclasses.field(default="", metadata={"kind": str, "may_be_empty": True})


def flag(default: bool) -> Any:
    """A truth value."""
    return dataclasses.field(default=default, metadata={"kind": bool})


REPLIES = ("explained", "answer_only", "primed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskParameters:
    """What every task knows."""

    reply: str = one_of("explained", REPLIES)
    """`explained` asks for a short explanation and then the answer (the paper's prompt); `answer_only` asks for the
    answer alone; `primed` also opens the answer block for the model, which suits very small models."""

    def as_dict(self) -> dict[str, Any]:
        """All fields with their values, defaults included; part of the sample's identity."""
        return {name: getattr(self, name) for name in (field.name for field in dataclasses.fields(self))}


P = TypeVar("P", bound=TaskParameters)


def parse(cls: type[P], task: str, mapping: Mapping[str, Any]) -> P:
    """The parameters in `mapping` over the defaults. Raises ParameterError naming task, parameter and value."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name, value in mapping.items():
        if name not in fields:
            raise ParameterError(f"{task} has no parameter {name!r}; it has {', '.join(sorted(fields))}")
        _check(f"{task}.{name}", value, fields[name].metadata)
    try:
        return cls(**mapping)
    except ParameterError as error:
        raise ParameterError(f"{task}: {error}") from None


def _check(where: str, value: Any, meta: Mapping[str, Any]) -> None:
    if value is None and meta.get("optional"):
        return
    if not _is(value, meta["kind"]):
        raise ParameterError(f"{where} must be {_WORDS[meta['kind']]}, not {value!r}")
    if "options" in meta and value not in meta["options"]:
        raise ParameterError(f"{where} must be one of {', '.join(meta['options'])}, not {value!r}")
    if "least" in meta and not meta["least"] <= value <= meta["most"]:
        raise ParameterError(f"{where} must lie in [{meta['least']}, {meta['most']}], not {value!r}")
    if meta["kind"] is str and not value and not meta.get("may_be_empty"):
        raise ParameterError(f"{where} must not be empty")


_WORDS = {int: "an integer", float: "a number", str: "text", bool: "true or false"}


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
