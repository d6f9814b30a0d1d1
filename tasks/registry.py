"""The nine tasks by name. A task's module is imported when the task is first asked for."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from tasks.errors import ParameterError
from tasks.task import Task

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


def task_names() -> tuple[str, ...]:
    """All task names, in the order of the paper's table."""
    return tuple(_CLASSES)


@cache
def get_task(name: str) -> Task[Any]:
    """The task of this name. Raises ParameterError listing the names when there is none."""
    if name not in _CLASSES:
        raise ParameterError(f"unknown task {name!r}; the tasks are {', '.join(_CLASSES)}")
    module, _, class_name = _CLASSES[name].partition(":")
    task: Task[Any] = getattr(import_module(module), class_name)()
    return task
