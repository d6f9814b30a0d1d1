"""What `lm_eval:TASK` does where lm-evaluation-harness is not installed, and how completions are cut."""

from __future__ import annotations

import importlib.metadata

import pytest

from tasks.errors import ParameterError
from tasks.harness import cut
from tasks.registry import get_task, is_known


def test_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert is_known("lm_eval:gsm8k_not_asked_for_before")
    with pytest.raises(
        ParameterError, match=r"need the extra lm-eval: pip install 'sparse-frontier-campaigns\[lm-eval"
    ):
        get_task("lm_eval:gsm8k_not_asked_for_before")


@pytest.mark.parametrize(
    ("text", "until", "expected"),
    [
        (" 7\nQuestion", ["\n"], " 7"),
        (" 7\nQ", ["Q", "\n"], " 7"),
        ("\n7", "\n", ""),
        ("7", None, "7"),
        ("7", [], "7"),
        ("a b", ["", "b"], "a "),
    ],
)
def test_text_is_cut_at_the_first_stop_string(text: str, until: str | list[str] | None, expected: str) -> None:
    assert cut(text, until) == expected
