"""A campaign whose tasks do not fit its lengths or its output limit is told so before it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.domain.grid import Cell
from orchestrator.domain.spec_file import load_cells
from orchestrator.domain.task_room import misfits
from tests.support.small_tokenizers import build_folder


@dataclass(frozen=True)
class Model:
    """A model of which only the tokenizer is here, or nothing."""

    folder: Path | None
    fingerprint: str = "f"
    max_context_tokens: int | None = None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_folder("byte_bpe", tmp_path_factory.mktemp("model"))


def _cells(tmp_path: Path, model: Model, tasks: str, limit: int, lengths: str = "[2048, 4096]") -> list[Cell]:
    path = tmp_path / "campaign.yaml"
    path.write_text(
        f"name: c\nmodels: [{{source: somewhere, name: m}}]\nmethods: [dense, {{quest: {{token_budget: 256}}}}]\n"
        f"tasks: [{tasks}]\nlengths: {lengths}\nsamples: 2\nmax_output_tokens: {limit}\n"
    )
    return load_cells(path, lambda source, revision: model)[1]


def test_a_task_that_does_not_fit_is_named_with_its_numbers(tmp_path: Path, folder: Path) -> None:
    (short,) = misfits(_cells(tmp_path, Model(folder), "story_retrieval, ruler_vt", 1024, "[1024, 8192]"))
    assert short.startswith("story_retrieval at length 1024 on m: ")
    assert "too short, these parameters need about" in short
    (data,) = misfits(_cells(tmp_path, Model(folder), "{qa_toefl: {dataset: sample}}", 64, "[2048, 131072]"))
    assert "qa_toefl at length 131072 on m: " in data
    assert "all 210 documents fill only" in data


def test_an_output_limit_below_the_gold_answer_is_named(tmp_path: Path, folder: Path) -> None:
    lines = misfits(_cells(tmp_path, Model(folder), "ruler_niah, ruler_vt", 100))
    assert [line.partition(": ")[0] for line in lines] == [f"ruler_niah at length {n} on m" for n in (2048, 4096)]
    assert lines[0].endswith("tokens, max_output_tokens is 100")
    assert misfits(_cells(tmp_path, Model(folder), "ruler_niah, ruler_vt", 1024)) == []


def test_a_reply_that_was_begun_needs_no_tags(tmp_path: Path, folder: Path) -> None:
    limit = 8
    asked = "{qa_toefl: {dataset: sample, reply: %s}}"
    assert misfits(_cells(tmp_path, Model(folder), asked % "primed", limit)) == []
    assert len(misfits(_cells(tmp_path, Model(folder), asked % "explained", limit))) == 2


def test_models_that_are_not_here_are_not_asked(tmp_path: Path) -> None:
    assert misfits(_cells(tmp_path, Model(None), "story_retrieval", 1, "[1024]")) == []
