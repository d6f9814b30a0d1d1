"""Tasks by name: the nine, those of installed packages, and families. A module is imported when first asked for.

A package adds a task with an entry point in the group `frontier.tasks`, whose object is a subclass of `tasks.task.Task`
that carries the entry point's name:

    [project.entry-points."frontier.tasks"]
    my_task = "my_package.task:MyTask"

A family (group `frontier.task_families`) is a function from a member's name to a task; `family:member` names a task.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from tasks.errors import ParameterError, TaskError
from tasks.task import Task

GROUP = "frontier.tasks"
FAMILY_GROUP = "frontier.task_families"
_CLASSES = {
    "ruler_niah": "tasks.ruler.niah:NeedleTask",
    "ruler_vt": "tasks.ruler.vt:VariableTrackingTask",
    "ruler_cwe": "tasks.ruler.cwe:CommonWordsTask",
    "qa_squad": "tasks.qa.squad:SquadTask",
    "qa_quality": "tasks.qa.choice:QualityTask",
    "qa_toefl": "tasks.qa.choice:ToeflTask",
    "story_retrieval": "tasks.story.retrieval:RetrievalTask",
    "story_multihop": "tasks.story.multihop:MultihopTask",
    "story_filtering": "tasks.story.filtering:FilteringTask",
}
BUILT_IN = tuple(_CLASSES)
"""The nine, in the order of the paper's table."""


def task_names() -> tuple[str, ...]:
    """All task names: the nine, then those of packages by name; the members of families are not listed."""
    return (*BUILT_IN, *(name for name in _points(GROUP) if name not in _CLASSES))


def family_names() -> tuple[str, ...]:
    """Families whose members are named `family:member`."""
    return tuple(_points(FAMILY_GROUP))


def is_known(name: str) -> bool:
    """Whether `get_task` has something behind this name: a task, or a family whose member it asks for."""
    family, colon, member = name.partition(":")
    return name in task_names() or bool(colon and member and family in family_names())


@cache
def get_task(name: str) -> Task[Any]:
    """The task of this name. Raises ParameterError: no such task, or a package that cannot be loaded."""
    if name in _CLASSES:
        module, _, class_name = _CLASSES[name].partition(":")
        task: Task[Any] = getattr(import_module(module), class_name)()
        return task
    if not is_known(name):
        raise ParameterError(f"unknown task {name!r}; the tasks are {', '.join(task_names())}")
    family, colon, member = name.partition(":")
    point = _points(FAMILY_GROUP)[family] if colon else _points(GROUP)[name]
    task = _loaded(point, name, member)
    task.plugin = f"{_package(point)} {_version(point)}" if not colon else task.plugin
    return task


def _loaded(point: EntryPoint, name: str, member: str) -> Task[Any]:
    try:
        task = point.load()(member) if member else point.load()()
    except TaskError:
        raise
    except Exception as error:  # whatever a stranger's code raises
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ParameterError(f"task {name!r} of {_package(point)} cannot be loaded: {reason}") from error
    if not isinstance(task, Task):
        raise ParameterError(f"task {name!r} of {_package(point)}: {point.value} is no subclass of tasks.task.Task")
    if task.name != name:
        raise ParameterError(f"task {name!r} of {_package(point)}: {point.value} calls itself {task.name!r}")
    return task


@cache
def _points(group: str) -> dict[str, EntryPoint]:
    """Entry points by name; of two packages that add one name, the first on the path."""
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        found.setdefault(point.name, point)
    return found


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value.partition(".")[0]


def _version(point: EntryPoint) -> str:
    return point.dist.version if point.dist is not None else "0"
