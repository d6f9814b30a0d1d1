"""`frontier adapt` on a small random Llama: what `--json` prints, and bad options in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from orchestrator.cli.main import build_app  # noqa: E402
from orchestrator.errors import UserError  # noqa: E402
from tests.support.json_forms import differences, read_forms  # noqa: E402
from tests.support.words import write_documents  # noqa: E402

FORMS = read_forms(Path(__file__).parents[4] / "docs" / "json.md")
SMALL = ["--slots", "24", "--sinks", "2", "--length", "64", "--device", "cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a tokenizer of words, and a folder of text."""
    place = tmp_path_factory.mktemp("adapt")
    write_documents(place / "text")
    words = sorted({w for path in (place / "text").rglob("*") if path.is_file() for w in path.read_text().split()})
    vocabulary = {word: number for number, word in enumerate(["<unk>", *words])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(place / "model")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=len(vocabulary), max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(place / "model")
    return place


def adapt(place: Path, verb: str, *options: str) -> Any:
    command = ["adapt", verb, "--model", str(place / "model"), "--data", str(place / "text"), *SMALL, *options]
    return CliRunner().invoke(build_app(), command)


def test_the_answers_have_the_documented_forms_and_agree(place: Path) -> None:
    trained = adapt(place, "sparsek", "--out", str(place / "out"), "--steps", "2", "--windows", "6", "2", "--json")
    assert trained.exit_code == 0, trained.output
    first = json.loads(trained.stdout)
    assert differences(FORMS["adapt sparsek"][0], first) == []
    assert len(first["training_losses"]) == 2
    again = adapt(place, "evaluate", "--adapter", first["adapter"], "--windows", "2", "--json")
    second = json.loads(again.stdout)
    assert differences(FORMS["adapt evaluate"][0], second) == []
    assert [row["method"] for row in second["held_out"]] == [row["method"] for row in first["held_out"]]
    assert second["held_out"][1]["loss"] == pytest.approx(first["held_out"][1]["loss"], abs=1e-4)
    assert second["held_out"][0]["over_dense"] == {"mean": 0.0, "standard_error": 0.0}


def test_a_table_is_printed_without_json(place: Path) -> None:
    shown = adapt(place, "sparsek", "--out", str(place / "table"), "--steps", "0", "--windows", "6", "2").stdout
    assert [line.split()[0] for line in shown.splitlines()[3:5]] == ["dense", "sparsek"]


@pytest.mark.parametrize(
    ("options", "what"), [(["--gating", "hard"], "--gating is 'hard'"), (["--slots", "64"], "--slots is 64")]
)
def test_bad_options_are_named(place: Path, options: list[str], what: str) -> None:
    error = adapt(place, "sparsek", "--out", str(place / "bad"), *options).exception
    assert isinstance(error, UserError)
    assert what in str(error)
