"""A method in a spec: a name, a name with options, or a method for each phase.

An option is a value, a list (an axis) or a mapping from length to either; a length absent from such a mapping
skips the method there. Lists within one phase advance together (so that vertical_size and slash_size, or alpha
and min_budget, form pairs); phases multiply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from sparsekernels.parameters import METHODS, MethodChoice, ParameterError, Phase, parse_method

from orchestrator.domain.compression import from_compression, nominal_compression
from orchestrator.domain.labels import Label
from orchestrator.domain.problems import did_you_mean, problem

TAIL = "tail"
"""Value of `window` that takes the task's own approximation window (256 or 512 rows, the paper's rule)."""

ANY_LENGTH = 1 << 20
"""Options that do not name their length are checked at this one: so long that no share of it is too small a budget.
The grid checks them again at the campaign's lengths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodPoint:
    """A method at one budget, ready for a request."""

    choice: MethodChoice
    budget: str
    """`token_budget=256`; phases joined by `+`; empty for dense."""
    compression: float | None
    """Nominal, where arithmetic gives it: causal pairs or cache reads over those kept."""


class MethodEntry(BaseModel):
    """One method of the campaign with its budgets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Label
    """Label in tables; unique. Default: the method's name."""
    phases: dict[Phase, dict[str, Any]] = Field(default_factory=dict)
    """Options by phase, the method's name among them; empty is dense."""

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        if isinstance(value, MethodEntry):
            return value
        if isinstance(value, str):
            value = {value: {}}
        if not isinstance(value, dict) or not value:
            raise problem(f"a method is a name or a mapping, not {value!r}")
        if set(value) <= {"name", "phases"} and "phases" in value:
            return value
        if set(value) & {*Phase, "name"}:
            return _by_phase(value)
        if len(value) > 1:
            raise problem(f"one method an entry; this one names {', '.join(map(str, value))}")
        (name, options), *_ = value.items()
        if name == "dense":
            return {"name": "dense", "phases": {}}
        return {"name": name, "phases": {METHODS[_known(name)].phase: _options(name, options, (name,))}}

    @model_validator(mode="after")
    def _every_point_is_valid(self) -> MethodEntry:
        lengths = {n for o in self.phases.values() for v in o.values() if isinstance(v, Mapping) for n in v}
        for length in lengths or {ANY_LENGTH}:
            for _ in self.points(length, window=256):
                pass
        return self

    def points(self, length_tokens: int, window: int) -> Iterator[MethodPoint]:
        """The method at each of its budgets for prompts of `length_tokens`; `window` stands for `tail`."""
        axes = [[(phase, o) for o in _expand(options, length_tokens)] for phase, options in self.phases.items()]
        for combination in product(*axes):
            chosen, budgets, compressions = {}, [], []
            for phase, options in combination:
                method = _build(phase, options, length_tokens, window)
                chosen[str(phase)] = method
                budgets.append(f"{method.budget_field}={getattr(method, method.budget_field)}")
                compressions.append(nominal_compression(method, length_tokens))
            only = compressions[0] if len(compressions) == 1 else None
            yield MethodPoint(
                choice=MethodChoice(**chosen),
                budget="+".join(budgets),
                compression=only if chosen else 1.0,
            )


def _by_phase(value: dict[str, Any]) -> dict[str, Any]:
    for key in value:
        if key not in {*Phase, "name"}:
            raise problem(f"unknown key {key!r}{did_you_mean(str(key), [*Phase, 'name'])}", key)
    phases: dict[Phase, dict[str, Any]] = {}
    for phase in Phase:
        if phase not in value:
            continue
        entry = value[phase]
        entry = {entry: {}} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or len(entry) != 1:
            raise problem(f"{phase} holds one method with its options, not {entry!r}", str(phase))
        (name, options), *_ = entry.items()
        if METHODS[_known(name, str(phase))].phase is not phase:
            raise problem(f"{name} is a {METHODS[name].phase} method; it cannot act in {phase}", str(phase))
        phases[phase] = _options(name, options, (str(phase), name))
    default = "+".join(str(o["name"]) for o in phases.values()) or "dense"
    return {"name": value.get("name", default), "phases": phases}


def _known(name: Any, *at: str) -> str:
    if name not in METHODS:
        raise problem(f"unknown method {name!r}{did_you_mean(str(name), ['dense', *METHODS])}", *at)
    try:
        METHODS[name]
    except ParameterError as error:  # its package is installed and broken
        raise problem(str(error), *at) from None
    return str(name)


def _options(name: str, options: Any, at: tuple[str, ...]) -> dict[str, Any]:
    options = {} if options is None else options
    if not isinstance(options, dict):
        raise problem(f"options of {name} are {options!r}; they must be a mapping", *at)
    for option, value in options.items():
        _check_axis(name, option, value, at)
    for length in (ANY_LENGTH, *(n for v in options.values() if isinstance(v, dict) for n in v)):
        for chosen in _expand(options, length):
            _check_point(name, chosen, length, at)
    return {"name": name, **options}


def _check_axis(name: str, option: Any, value: Any, at: tuple[str, ...]) -> None:
    """Refuses lists and mappings that would leave the method without any setting."""
    by_length = value if isinstance(value, dict) else {}
    for length in by_length:
        if isinstance(length, bool) or not isinstance(length, int):
            raise problem(f"{name}: {option} is given for {length!r}; a length is a whole number", *at, option)
    for chosen in (value, *by_length.values()):
        if isinstance(chosen, (list, tuple, dict)) and not chosen:
            raise problem(f"{name}: {option} is {value!r}; it must hold at least one value", *at, option)


def _check_point(name: str, chosen: dict[str, Any], length: int, at: tuple[str, ...]) -> None:
    phase = METHODS[name].phase
    try:
        _build(phase, {"name": name, **chosen}, length, 256)
    except ParameterError as error:
        option = next((key for key in chosen if str(key) in str(error)), None)
        raise problem(str(error), *at, *([option] if option else [])) from None


def _expand(options: Mapping[str, Any], length_tokens: int) -> Iterator[dict[str, Any]]:
    """The option sets of one phase at one length; none when a per-length option does not name it."""
    chosen: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            if length_tokens not in value:
                return
            value = value[length_tokens]
        chosen[key] = value
    axes = {key: value for key, value in chosen.items() if isinstance(value, (list, tuple))}
    sizes = {len(value) for value in axes.values()}
    if len(sizes) > 1:
        text = ", ".join(f"{key} has {len(value)}" for key, value in axes.items())
        raise problem(f"lists of one method advance together and must be equally long: {text}")
    for index in range(sizes.pop() if sizes else 1):
        yield {key: (value[index] if key in axes else value) for key, value in chosen.items()}


def _build(phase: Phase, options: Mapping[str, Any], length_tokens: int, window: int) -> Any:
    name = str(options["name"])
    values = {key: value for key, value in options.items() if key != "name"}
    takes_window = phase is Phase.PREFILL and "window" in METHODS[name].__dataclass_fields__
    if values.get("window") == TAIL or (takes_window and "window" not in values):
        values["window"] = window
    if "compression" in values:
        values = from_compression(name, values, length_tokens)
    return parse_method(name, values)
