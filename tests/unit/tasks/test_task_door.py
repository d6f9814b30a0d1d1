"""Tasks of other packages: found by entry point, named with their version, refused in one clear line."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from tasks import registry
from tasks.errors import ParameterError
from tasks.ruler.vt import VariableTrackingTask
from tasks.task import Task
from workers.engine import EngineSpec
from workers.protocol import ShardOrder, TaskOrder
from workers.source import TaskSource


class Traced(VariableTrackingTask):
    """A stranger's task."""

    name = "traced"


class Member(VariableTrackingTask):
    """A member of a stranger's family."""

    def __init__(self, member: str) -> None:
        if member == "none":
            raise ParameterError("the family has no member 'none'")
        self.name = f"kin:{member}"  # type: ignore[misc]


def no_task() -> str:
    return "text"


POINTS = {
    registry.GROUP: {
        "traced": "Traced", "broken": "Missing", "text": "no_task", "other": "Traced",
        "ruler_vt": "Traced",
    },
    registry.FAMILY_GROUP: {"kin": "Member"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def strangers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    found = {
        group: {name: EntryPoint(name, f"{__name__}:{value}", group) for name, value in names.items()}
        for group, names in POINTS.items()
    }
    monkeypatch.setattr(registry, "_points", found.__getitem__)
    registry.get_task.cache_clear()
    yield
    registry.get_task.cache_clear()


def test_the_nine_come_first_and_keep_their_names() -> None:
    assert registry.task_names() == (*registry.BUILT_IN, "traced", "broken", "text", "other")
    assert type(registry.get_task("ruler_vt")) is VariableTrackingTask
    assert registry.get_task("ruler_vt").plugin is None


def test_a_strangers_task_carries_its_package_in_its_samples_identity() -> None:
    task = registry.get_task("traced")
    assert isinstance(task, Traced)
    assert task.plugin is not None
    parameters = task.parse_parameters({})
    assert task.full_identity_parameters(parameters) == {**parameters.as_dict(), "plugin": task.plugin}
    own: Task[Any] = VariableTrackingTask()
    assert "plugin" not in own.full_identity_parameters(own.parse_parameters({}))


def test_a_family_makes_its_members() -> None:
    assert registry.get_task("kin:anna").name == "kin:anna"
    assert registry.is_known("kin:anyone")
    assert not any(map(registry.is_known, ("kin", "kin:", "ken:anna", ":anna")))
    with pytest.raises(ParameterError, match="the family has no member 'none'"):
        registry.get_task("kin:none")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("broken", "cannot be loaded: AttributeError"),
        ("text", "is no subclass of tasks.task.Task"),
        ("other", "calls itself 'traced'"),
        ("unheard", "unknown task 'unheard'; the tasks are ruler_niah"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(name: str, reason: str) -> None:
    with pytest.raises(ParameterError) as error:
        registry.get_task(name)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_worker_with_another_version_refuses_the_order() -> None:
    order = ShardOrder(
        campaign="c", shard_id=1, attempt_id=1, cell_key="k", engine=EngineSpec(model="m", max_model_len=64),
        task=TaskOrder(name="traced", version=1, parameters={}, plugin="strangers 9.9"), length_tokens=64, seed=1,
        indices=(0,),
    )  # fmt: skip
    with pytest.raises(ParameterError, match=r"traced is of .* here, but was asked for of strangers 9\.9"):
        TaskSource()._parsed(order)
