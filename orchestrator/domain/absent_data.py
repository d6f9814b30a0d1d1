"""Planning needs no data set: tasks whose data is not on this machine are planned with the shipped sample's identity.

Lengths, samples and costs are the same; only the cells' keys differ, and no plan shows them.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.domain.spec import CampaignSpec
from orchestrator.domain.task_entry import TaskEntry
from tasks.errors import DataError
from tasks.registry import get_task


@dataclass(frozen=True, slots=True)
class PlannableSpec:
    """A spec that expands on this machine."""

    spec: CampaignSpec
    warnings: tuple[str, ...]
    """One for each task whose data must be fetched before the campaign runs."""


def plannable(spec: CampaignSpec) -> PlannableSpec:
    """`spec` with absent data sets replaced by the shipped samples."""
    entries: list[TaskEntry] = []
    warnings: list[str] = []
    for entry in spec.tasks:
        problem = _data_problem(entry)
        if problem:
            warnings.append(f"before running: {problem}")
            if "dataset" in get_task(entry.task).parameters_type.__dataclass_fields__:
                entry = entry.model_copy(update={"parameters": {**entry.parameters, "dataset": "sample"}})
        entries.append(entry)
    return PlannableSpec(spec.model_copy(update={"tasks": tuple(entries)}), tuple(warnings))


def _data_problem(entry: TaskEntry) -> str:
    task = get_task(entry.task)
    try:
        task.identity_parameters(task.parse_parameters(entry.parameters))
    except DataError as error:
        return str(error)
    return ""
