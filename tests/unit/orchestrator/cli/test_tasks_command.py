"""`frontier tasks`: what it prints, and its one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli import boundary
from orchestrator.cli.tasks import app
from tests.support.small_tokenizers import build_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_folder("byte_bpe", tmp_path_factory.mktemp("model")))


@pytest.fixture
def frontier(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):  # type: ignore[no-untyped-def]
    monkeypatch.setenv("FRONTIER_HOME", str(tmp_path / "home"))

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["frontier tasks", *arguments])
        code = boundary.call(app)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_list_names_nine_tasks(frontier) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = frontier("list", "--json")
    assert code == 0
    assert len(json.loads(out)["tasks"]) == 9
    assert "num_queries=4" in frontier("list")[1]


def test_preview_prints_prompt_gold_and_counts(frontier, model: str) -> None:  # type: ignore[no-untyped-def]
    arguments = ("preview", "ruler_vt", "--length", "1500", "--seed", "5", "--model", model, "--set", "num_chains=2")
    code, out, _ = frontier(*arguments, "--json")
    sample = json.loads(out)
    assert code == 0
    assert len(sample["gold"]) == 5
    assert 1425 <= sample["num_prompt_tokens"] == len(sample["prompt_token_ids"]) <= 1500
    shown = frontier(*arguments)[1]
    assert sample["gold_answer"] in shown
    assert f"{sample['num_prompt_tokens']} tokens of 1500" in shown


def test_scores_come_under_both_rules(frontier, model: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    options = ("story_multihop", "--length", "1500", "--model", model)
    gold = json.loads(frontier("preview", *options, "--json")[1])["gold"]
    rows = [{"index": 0, "completion": f"<answer>{gold}</answer>"}, {"index": 0, "completion": gold}]
    file = tmp_path / "replies.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    code, out, _ = frontier("score", *options, "--completions", str(file), "--json")
    honest, reference = json.loads(out)["summaries"]
    assert code == 0
    assert (honest["num_samples"], honest["num_counted"], honest["mean"], honest["num_unanswered"]) == (2, 2, 0.5, 1)
    assert (reference["num_counted"], reference["mean"]) == (1, 1.0)
    assert "0.500" in frontier("score", *options, "--completions", str(file))[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("preview", "nope"), "unknown task 'nope'"),
        (("preview", "ruler_vt", "--set", "chains=2"), "no parameter 'chains'"),
        (("preview", "ruler_vt", "--set", "num_chains"), "not of the form NAME=VALUE"),
        (("preview", "ruler_vt", "--length", "100"), "length 100 is too short"),
        (("preview", "qa_squad"), "frontier tasks fetch squad"),
        (("fetch", "mmlu"), "unknown data set 'mmlu'"),
    ],
)
def test_errors_take_one_line(arguments: tuple[str, ...], message: str, frontier, model: str) -> None:  # type: ignore[no-untyped-def]
    chosen = (*arguments, "--model", model) if arguments[0] == "preview" else arguments
    code, out, err = frontier(*chosen)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize("line", ["{", '{"index": -1, "completion": ""}', '{"index": 0}', "[]"])
def test_bad_completions_are_named_by_line(line: str, frontier, model: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "replies.jsonl"
    file.write_text('{"index": 0, "completion": "x"}\n' + line)
    code, _, err = frontier("score", "ruler_vt", "--completions", str(file), "--model", model)
    assert code == 2
    assert f"{file}:2: " in err


def test_fetch_reads_a_file(frontier) -> None:  # type: ignore[no-untyped-def]
    from tasks.qa.articles import DATA_FOLDER

    code, out, _ = frontier("fetch", "quality", "--from", str(DATA_FOLDER / "quality.jsonl"))
    assert code == 0
    assert "210 documents" in out
    assert "not known beforehand" in out


def test_half_a_character_in_a_completion_can_be_printed(frontier, model: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "replies.jsonl"
    file.write_text('{"index": 0, "completion": "<answer>A \\ud83d</answer>"}\n')
    code, out, _ = frontier("score", "ruler_vt", "--completions", str(file), "--model", model, "--json")
    assert code == 0
    assert out.encode("utf-8")
    assert json.loads(out)["samples"][0]["scores"]["default"]["extracted"] == "A ?"
