"""A task in a spec: its name, or a mapping with parameters."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, model_validator

from orchestrator.domain.labels import Label
from orchestrator.domain.numbers import Count, NumSamples
from orchestrator.domain.problems import did_you_mean, problem
from tasks.errors import ParameterError, TaskError
from tasks.registry import get_task, is_known, task_names

FIELDS = ("name", "task", "parameters", "max_output_tokens", "samples", "lengths")


class TaskEntry(BaseModel):
    """One task of the campaign at given parameters.

    Written as `ruler_niah`, as `ruler_niah: {num_queries: 2}`, or as a mapping with these fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Label
    """Label in tables; unique. Default: the task's name."""
    task: StrictStr
    parameters: dict[str, Any] = Field(default_factory=dict)
    max_output_tokens: Count | None = None
    samples: NumSamples | None = None
    lengths: Annotated[tuple[StrictInt, ...], Field(min_length=1)] | None = None
    """Only these of the campaign's lengths."""

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"task": value}
        if isinstance(value, dict) and len(value) == 1 and not set(value) & set(FIELDS):
            (task, parameters), *_ = value.items()
            value = {"task": task, "parameters": {} if parameters is None else parameters, "short": True}
        if not isinstance(value, dict):
            return value
        short = value.pop("short", False) if "short" in value else False
        if isinstance(value.get("task"), str):
            _check(value["task"], value.get("parameters"), short)
            value = {"name": value["task"], **value}
        return value


def _check(name: str, parameters: Any, short: bool) -> None:
    at = () if short else ("task",)
    if not is_known(name):
        raise problem(f"unknown task {name!r}{did_you_mean(name, task_names())}", *at)
    try:
        task = get_task(name)
    except ParameterError as error:  # a package that is broken, or a family without such a member
        raise problem(str(error), *at) from None
    place = (name,) if short else ("parameters",)
    if parameters is not None and not isinstance(parameters, dict):
        raise problem(f"parameters of {name} are {parameters!r}; they must be a mapping", *place)
    try:
        task.parse_parameters(parameters or {})
    except TaskError as error:
        option = next((key for key in parameters or {} if str(key) in str(error)), None)
        raise problem(f"{name}: {error}", *place, *([option] if option else [])) from None
