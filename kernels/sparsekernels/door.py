"""The door through which methods come in: a table of parameter classes, ours and those of installed packages.

Plain Python (no torch). A package adds a method with an entry point in the group `frontier.methods`:

    [project.entry-points."frontier.methods"]
    my_method = "my_package.parameters:MyMethod"

`MyMethod` is a frozen, keyword-only dataclass whose fields are the method's options, with these class variables:

- `name`: the entry point's name. `phase`: a `Phase`. `budget_field`: the option that stands for the budget.
- `select`: `"module:function"`, the function that makes the Selection (see `sparsekernels.choosing`). It is imported
  where attention runs, so that the module of the class needs no torch.
- optional `version`: what the method's cells depend on; default is the version of its package.
- optional `window`: last prompt rows that the function wants to see (compress: default 1; decode: default none).

and, if the budget decides it, `nominal_density(self, length_tokens) -> float`: the share of causal pairs (prefill) or
of cache entries (decode, compress) that is read; plans, costs and the `compression` option follow from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from enum import StrEnum
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

GROUP = "frontier.methods"


class Phase(StrEnum):
    """Where in a request's life a method acts."""

    PREFILL = "prefill"
    """Rows of the prompt attend to a part of the causal context."""
    DECODE = "decode"
    """Each generated token reads a part of the cache, chosen anew at every step."""
    COMPRESS = "compress"
    """After the prefill a part of the prompt's cache entries is kept, the rest is never read again."""


class ParameterError(ValueError):
    """A parameter that is unknown, of the wrong type or out of range; the text names it."""


class MethodTable(Mapping[str, type[Any]]):
    """Parameter classes by method name: the built-in ones, then those of entry points, by name.

    Names are known without importing anything. Looking up a method whose package is broken raises ParameterError with
    the reason; KeyError means that there is no such method.
    """

    def __init__(self, *builtin: type[Any]) -> None:
        self._builtin = {cls.name: cls for cls in builtin}
        self._loaded: dict[str, type[Any]] = {}

    @cached_property
    def _points(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
            found.setdefault(point.name, []).append(point)
        return found

    def __getitem__(self, name: str) -> type[Any]:
        if name in self._builtin:
            return self._builtin[name]
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or name in self._points

    def __iter__(self) -> Iterator[str]:
        yield from self._builtin
        yield from (name for name in self._points if name not in self._builtin)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def plugin(self, name: str) -> str | None:
        """Package and version that a method's numbers depend on, `package 1.2`; None for a built-in method."""
        if name in self._builtin:
            return None
        point = self._points[name][0]
        return f"{package(point)} {getattr(self[name], 'version', None) or version(point)}"

    def shadowed(self) -> dict[str, str]:
        """Methods of packages that stand behind a built-in method of the same name: name → package."""
        return {name: package(self._points[name][0]) for name in self._points if name in self._builtin}

    def _load(self, name: str) -> type[Any]:
        points = self._points[name]
        if len(points) > 1:
            raise ParameterError(f"the packages {', '.join(map(package, points))} all add a method {name!r}")
        try:
            cls = points[0].load()
        except Exception as error:  # whatever a stranger's import raises
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ParameterError(f"method {name!r} of {package(points[0])} cannot be loaded: {reason}") from error
        fault = _fault(cls, name)
        if fault:
            raise ParameterError(f"method {name!r} of {package(points[0])}: {points[0].value} {fault}")
        return cls  # type: ignore[no-any-return]


def package(point: EntryPoint) -> str:
    """Name of the distribution that declares the entry point."""
    return point.dist.name if point.dist is not None else point.value.partition(".")[0]


def version(point: EntryPoint) -> str:
    """Version of that distribution."""
    return point.dist.version if point.dist is not None else "0"


def _fault(cls: Any, name: str) -> str | None:
    """What is missing in a parameter class, to stand behind its address; None when nothing is."""
    if not (isinstance(cls, type) and is_dataclass(cls)):
        return "is not a dataclass"
    if not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return "is not frozen: @dataclass(frozen=True, kw_only=True)"
    for attribute in ("name", "phase", "budget_field", "select"):
        if not hasattr(cls, attribute):
            return f"has no class variable {attribute}"
    if cls.name != name:  # type: ignore[attr-defined]
        return f"calls itself {cls.name!r}, its entry point {name!r}"  # type: ignore[attr-defined]
    if cls.phase not in set(Phase):  # type: ignore[attr-defined]
        return f"has phase {cls.phase!r}; phases: {', '.join(Phase)}"  # type: ignore[attr-defined]
    if cls.budget_field not in cls.__dataclass_fields__:  # type: ignore[attr-defined]
        return f"has no field {cls.budget_field!r}, its budget_field"  # type: ignore[attr-defined]
    return None
