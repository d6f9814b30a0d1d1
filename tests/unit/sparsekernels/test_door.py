"""What comes in through the door and what is refused, in one clear line."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest
import torch
from sparsekernels.choosing import Place, choose
from sparsekernels.door import MethodTable
from sparsekernels.kvcache import contiguous
from sparsekernels.parameters import METHODS, MethodChoice, ParameterError, Phase, Quest, parse_method
from sparsekernels.prefill import select, sparse_prefill
from sparsekernels.testing import masked_attention, relative_error

from tests.support.foreign_methods import KeepStrongest, Stride, behind_the_door


@dataclass
class NotFrozen:
    """Refused."""

    name: ClassVar[str] = "not_frozen"


@dataclass(frozen=True)
class NoFunction:
    """Refused."""

    name: ClassVar[str] = "no_function"
    phase: ClassVar[Phase] = Phase.DECODE
    budget_field: ClassVar[str] = "size"
    size: int = 1


@dataclass(frozen=True)
class NoBudget(NoFunction):
    """Refused."""

    name: ClassVar[str] = "no_budget"
    budget_field: ClassVar[str] = "width"
    select: ClassVar[str] = "nowhere:select"


def table(**values: str) -> MethodTable:
    """Quest, and entry points `name = value` of no package."""
    found = MethodTable(Quest)
    found.__dict__["_points"] = {name: [EntryPoint(name, value, "frontier.methods")] for name, value in values.items()}
    return found


def test_our_own_two_come_in_through_entry_points() -> None:
    assert list(METHODS)[-2:] == ["streaming_llm", "tova"]
    assert METHODS.plugin("tova") == "sparse-frontier-campaigns 1"
    assert METHODS.plugin("quest") is None


def test_names_are_known_without_an_import() -> None:
    found = table(broken="no.such.module:Method")
    assert list(found) == ["quest", "broken"]
    assert "broken" in found
    assert "other" not in found
    assert found.get("other") is None
    with pytest.raises(ParameterError, match=r"method 'broken' of no cannot be loaded: ModuleNotFoundError"):
        found["broken"]


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (NotFrozen, "is not frozen"),
        (NoFunction, "has no class variable select"),
        (NoBudget, "has no field 'width', its budget_field"),
    ],
)
def test_a_class_that_lacks_something_is_refused(cls: type, reason: str) -> None:
    found = table(**{cls.name: f"{cls.__module__}:{cls.__name__}"})  # type: ignore[attr-defined]
    with pytest.raises(ParameterError, match=reason):
        found[cls.name]  # type: ignore[attr-defined]


def test_another_name_than_the_entry_points_is_refused() -> None:
    with pytest.raises(ParameterError, match="calls itself 'stride', its entry point 'strides'"):
        table(strides="tests.support.foreign_methods:Stride")["strides"]


def test_two_packages_with_one_name_are_refused_and_a_builtin_name_wins() -> None:
    found = table(stride="tests.support.foreign_methods:Stride", quest="tests.support.foreign_methods:Stride")
    found._points["stride"] *= 2
    with pytest.raises(ParameterError, match="the packages tests, tests all add a method 'stride'"):
        found["stride"]
    assert found["quest"] is Quest
    assert found.shadowed() == {"quest": "tests"}


def test_the_wire_names_the_plugin_and_another_version_is_refused() -> None:
    with behind_the_door(Stride):
        choice = MethodChoice(prefill=parse_method("stride", {"step": 3}))
        wire = choice.to_wire()
        assert wire["prefill"]["plugin"] == "tests 3"
        assert MethodChoice.from_wire(wire) == choice
        wire["prefill"]["plugin"] = "tests 2"
        with pytest.raises(ParameterError, match="stride is of tests 3 here, but was asked for of tests 2"):
            MethodChoice.from_wire(wire)
    with pytest.raises(ParameterError, match="unknown method 'stride'"):
        parse_method("stride", {"step": 3})


def test_options_are_checked_as_those_of_built_in_methods() -> None:
    with pytest.raises(ParameterError, match=r"tova: token_capacity is '9'; it must be int"):
        parse_method("tova", {"token_capacity": "9"})
    with pytest.raises(ParameterError, match=r"streaming_llm: token_budget is 4; it must exceed sink_size \(4\)"):
        parse_method("streaming_llm", {"token_budget": 4})
    with pytest.raises(ParameterError, match="tova watches the whole prompt; snapkv cannot act beside it"):
        MethodChoice(
            decode=parse_method("tova", {"token_capacity": 9}),
            compress=parse_method("snapkv", {"token_capacity": 512}),
        )


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("block_sparse", {"top_blocks": 9, "row_block": 0}, "row_block is 0; it must be a power of two, at least 16"),
        ("block_sparse", {"top_blocks": 9, "row_block": -16}, "row_block is -16"),
        ("block_sparse", {"top_blocks": 9, "row_block": 48}, "row_block is 48"),
        ("block_sparse", {"top_blocks": 9, "row_block": 8}, "row_block is 8"),
        ("quest", {"token_budget": 1 << 32}, "token_budget is 4294967296; it must be at most 2147483647"),
        ("vertical_slash", {"vertical_size": 10**30, "slash_size": 64}, f"vertical_size is {10**30}"),
        ("sparsek", {"adapter": "a", "slots": 0}, "slots is 0; it must exceed"),
        ("sparsek", {"adapter": "a", "slots": 64, "local_size": 0}, "local_size is 0"),
    ],
)
def test_numbers_that_no_kernel_takes_are_named(name: str, options: dict[str, object], text: str) -> None:
    with pytest.raises(ParameterError, match=f"{name}: {text}"):
        parse_method(name, options)


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        ("quest", "the method is 'quest'; it must be an object of phases"),
        ({"decode": None}, "decode is None; it must be an object with the method's name"),
        ({"decode": ["name"]}, r"decode is \['name'\]"),
        ({"decode": {"name": ["quest"]}}, r"unknown method \['quest'\]"),
    ],
)
def test_a_wire_form_of_another_shape_is_refused_by_name(wire: Any, text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        MethodChoice.from_wire(wire)


@pytest.mark.parametrize("per_query_head", [False, True])
def test_a_prefill_method_runs_through_the_usual_call(per_query_head: bool) -> None:
    q, k, v = (torch.randn(77, h, 16, generator=torch.Generator().manual_seed(h)) for h in (4, 2, 2))
    method = Stride(step=3, per_query_head=per_query_head)
    found = sparse_prefill(q, contiguous(k, v), method, length=77, executor="reference")
    selection = select(q, k, method)
    selection.validate([77])
    exact = masked_attention(q, k, v, selection.dense_mask(77, 77))
    assert relative_error(found.out, exact) < 1e-6
    assert float(found.density()) == pytest.approx(float(selection.density()))
    assert found.computed_pairs.shape == (4,)


def test_compression_lists_end_with_the_prompts_last_token() -> None:
    q, k = torch.randn(8, 4, 16), torch.randn(50, 2, 16)
    selection = choose(q, k, KeepStrongest(size=5), Place(scale=0.25))
    selection.validate([50])
    assert selection.num_heads == 2
