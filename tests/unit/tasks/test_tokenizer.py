"""Tokenizers from model folders: chat templates, fingerprints, pieces."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from tasks.errors import TokenizerError
from tasks.pieces import cut_at_spaces, without_leading_space
from tasks.tokenizer import Tokenizer, load_tokenizer
from tests.support.small_tokenizers import FAMILIES

_WORDS = st.text(st.sampled_from("ab. \n,1é:-"), max_size=12)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_encode_pieces_like_the_whole(family: str, tokenizers_by_family: dict[str, Tokenizer]) -> None:
    assert tokenizers_by_family[family].exact


def test_a_tokenizer_that_merges_across_spaces_is_found_out(tokenizer_folders: dict[str, Path], tmp_path: Path) -> None:
    content = json.loads((tokenizer_folders["bytes"] / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "use_regex": False,
        "trim_offsets": True,
    }
    content["model"]["merges"] = [["x", "Ġ"]]
    content["model"]["vocab"]["xĠ"] = 1000
    shutil.copytree(tokenizer_folders["bytes"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert not load_tokenizer(tmp_path).exact


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None, derandomize=True, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(segments=st.lists(_WORDS, max_size=8), tail=_WORDS)
def test_cut_prompts_encode_like_whole_ones(
    family: str, segments: list[str], tail: str, tokenizers_by_family: dict[str, Tokenizer]
) -> None:
    tokenizer = tokenizers_by_family[family]
    head, tail = "Read this.", f"{tail}Done"
    encoded = tokenizer.encode_prompt(head, segments, tail)
    assert list(encoded.ids) == tokenizer.chat(head + "".join(segments) + tail)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("end", ["word", "word.", "(so)"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_tail_is_counted_from_the_end_of_the_context(
    family: str, end: str, exact: bool, tokenizers_by_family: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizers_by_family[family]
    monkeypatch.setattr(tokenizer, "exact", exact)
    tail = "\n</context>\n\n<question>\nWhich value is it?"
    whole = tokenizer.encode_prompt("Read this.", [" A", f" {end}"], tail)
    alone = tokenizer.chat(f"Read this. A {end}")
    assert abs(whole.tail_tokens - (len(whole.ids) - len(alone) + _closing_tokens(tokenizer))) <= 1


def _closing_tokens(tokenizer: Tokenizer) -> int:
    """Tokens that the chat template puts after the message."""
    after = tokenizer.render("end").partition("end")[2]
    return len(tokenizer.encode(f"end{after}")) - len(tokenizer.encode("end"))


@given(st.lists(_WORDS, max_size=10), st.lists(_WORDS, max_size=3))
def test_cutting_loses_nothing(first: list[str], second: list[str]) -> None:
    before = ["start"]
    pieces = cut_at_spaces(first, after=before)
    rest = cut_at_spaces(second, after=pieces or before)
    assert "".join([*before, *pieces, *rest]) == "start" + "".join(first + second)


def test_the_first_segment_may_lose_its_space() -> None:
    assert without_leading_space([" a", " b"]) == ["a", " b"]
    assert without_leading_space([]) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_first_words_stay_within_their_tokens(family: str, tokenizers_by_family: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers_by_family[family]
    text = "The quick brown fox jumps over the lazy dog, twice a day."
    for limit in (1, 4, 9, 13):
        words = tokenizer.first_words(text, limit)
        assert text.startswith(words)
        assert not words.endswith(" ")
        assert len(tokenizer.encode(words)) <= limit
    assert tokenizer.first_words(text, 1000) == text


def test_a_document_gets_the_tokenizers_special_tokens_once(tokenizers_by_family: dict[str, Tokenizer]) -> None:
    wordpiece, plain = tokenizers_by_family["wordpiece"], tokenizers_by_family["byte_bpe"]
    (first,), (last,) = wordpiece.encode("[CLS]"), wordpiece.encode("[SEP]")
    assert wordpiece.document("a word") == [first, *wordpiece.encode("a word"), last]
    assert wordpiece.document("[CLS] a word") == [first, *wordpiece.encode("a word")]
    assert plain.document("a word") == plain.encode("a word")


def test_memory_of_pieces_is_bounded(tokenizer_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.tokenizer._MAX_REMEMBERED_TOKENS", 500)
    tokenizer = load_tokenizer(tokenizer_folders["byte_bpe"])
    for number in range(100):
        assert list(tokenizer.piece(f" word{number}")) == list(tokenizer.piece(f" word{number}"))
    assert len(tokenizer._pieces) < 20


def test_templates_change_the_fingerprint(tokenizer_folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(tokenizer_folders["byte_bpe"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}{% generation %}!{% endgeneration %}")
    other = load_tokenizer(tmp_path)
    assert other.fingerprint != load_tokenizer(tokenizer_folders["byte_bpe"]).fingerprint
    assert other.decode(other.chat("Hello")) == "Hello!"


@pytest.mark.parametrize(
    ("template", "message"),
    [("{% if %}", "chat template"), ("{{ raise_exception('no user') }}", "no user"), ("", "no chat template")],
)
def test_bad_templates_name_the_folder(
    template: str, message: str, tokenizer_folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copy(tokenizer_folders["byte_bpe"] / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(tmp_path).chat("x")
    assert str(tmp_path) in str(caught.value)


def test_named_templates_and_token_objects_are_understood(tokenizer_folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(tokenizer_folders["byte_bpe"] / "tokenizer.json", tmp_path)
    templates = [
        {"name": "tools", "template": "no"},
        {"name": "default", "template": "{{ bos_token }}: {{ messages[0].content }}"},
    ]
    config = {"chat_template": templates, "bos_token": {"content": "BOS"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer.chat("hi")) == "BOS: hi"


def test_a_truncating_tokenizer_file_does_not_truncate(tokenizer_folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(tokenizer_folders["byte_bpe"], tmp_path, dirs_exist_ok=True)
    backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(5)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert len(load_tokenizer(tmp_path).encode("one two three four five six seven eight")) > 5


@pytest.mark.parametrize(("file", "content"), [("tokenizer.json", "{"), ("tokenizer_config.json", "[1]")])
def test_unreadable_files_are_named(
    file: str, content: str, tokenizer_folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(tokenizer_folders["byte_bpe"], tmp_path, dirs_exist_ok=True)
    (tmp_path / file).write_text(content)
    with pytest.raises(TokenizerError, match=file):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path / "absent")
