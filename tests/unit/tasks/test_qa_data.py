"""Question answering data: readers, sources, fetching, packing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tasks.errors import DataError
from tasks.qa.articles import DATA_FOLDER, write_sample, written_articles
from tasks.qa.fetch import fetch
from tasks.qa.readers import read_quality, read_squad, read_toefl
from tasks.qa.sources import SOURCES, fetched_path, load_collection
from tasks.registry import get_task
from tasks.tokenizer import Tokenizer

_REAL_TOEFL = Path(__file__).parents[3].parent / "shared" / "data" / "toeflqa.jsonl"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRONTIER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_shipped_sample_is_what_the_writer_makes(tmp_path: Path) -> None:
    write_sample(tmp_path)
    for name in ("squad.json", "quality.jsonl", "toefl.jsonl"):
        assert (tmp_path / name).read_text() == (DATA_FOLDER / name).read_text()


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_the_shipped_sample_reads_without_a_skip(name: str) -> None:
    collection = load_collection(name, "sample")
    assert not collection.skipped
    assert len(collection.documents) == 210
    assert len(collection.questions) > 350


def test_phrases_of_the_written_passages_stand_in_them() -> None:
    articles = written_articles()
    assert len(articles) == 40
    for article in articles:
        assert all(question.answers[0].lower() in article.text.lower() for question in article.spans), article.title
        assert all(len(set(question.options)) == 4 for question in article.choices)


def test_squad_rows_that_are_broken_are_skipped_and_named(tmp_path: Path) -> None:
    good = {"question": "Who?", "answers": [{"text": "Ann"}, {"text": "Ann"}, {"text": " Bo "}]}
    rows = [good, good, {"question": "Why?", "answers": []}, {"question": 3, "answers": [{"text": "x"}]},
            {"question": "Gone?", "answers": [], "is_impossible": True}, "row"]  # fmt: skip
    path = tmp_path / "squad.json"
    paragraphs = [{"context": " Ann left. ", "qas": rows}, {"qas": []}]
    path.write_text(json.dumps({"data": [{"title": "no text"}, {"paragraphs": paragraphs}, 4]}))
    collection = read_squad(path, "squad")
    assert [(one.text, one.answers) for one in collection.questions] == [("Who?", ("Ann", "Bo"))]
    assert collection.documents == ("Ann left.",)
    assert [line.partition(": ")[2].partition(":")[0] for line in collection.skipped] == [
        "article 1", *(f"article 2, paragraph 1, question {n}" for n in (3, 4, 6)), "article 2, paragraph 2",
        "article 3",
    ]  # fmt: skip


def test_lines_that_are_broken_are_skipped_and_named(tmp_path: Path) -> None:
    lines = [
        {"article": "A text.", "questions": [{"question": "Q?", "options": ["w", "x", "y", "z"], "gold_label": 2}]},
        {"article": "A text.", "questions": [{"question": "Q?", "options": ["w"], "gold_label": 2}]},
        {"context": "B text.", "questions": ["Question: Q? Options: A.u B.v"], "answer": ["B, A"]},
        {"context": "B text.", "questions": ["Q?"], "answer": []},
        {"context": "B text.", "questions": ["R?"], "answer": ["E"]},
        [1],
        {"context": "half a \ud83d pair", "questions": ["S?"], "answer": ["A"]},
        {"context": 7, "questions": ["S?"], "answer": ["A"]},
    ]
    path = tmp_path / "quality.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n{broken\n")
    collection = read_quality(path, "quality")
    assert [(one.text, one.answers) for one in collection.questions] == [
        ("Q?\nA. w\nB. x\nC. y\nD. z", ("B",)),
        ("Q? Options: A.u B.v", ("AB",)),
    ]
    assert [line.partition(": ")[0] for line in collection.skipped] == [f"{path}:{n}" for n in (2, 4, 5, 6, 7, 8, 10)]


@pytest.mark.parametrize("content", ["", "{}", '{"data": 3}', "[]", "{", '{"data": [{"paragraphs": []}]}'])
def test_files_without_a_question_are_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text(content)
    for read in (read_squad, read_quality, read_toefl):
        with pytest.raises(DataError):
            read(path, "some data")


def test_absent_data_says_what_to_do() -> None:
    with pytest.raises(DataError, match="frontier tasks fetch squad"):
        load_collection("squad", "full")
    with pytest.raises(DataError, match=r"nowhere\.json"):
        load_collection("squad", "nowhere.json")


def test_fetching_a_file_makes_it_the_full_data_set(home: Path) -> None:
    file = DATA_FOLDER / "toefl.jsonl"
    fetched = fetch("toefl", from_file=file)
    assert (fetched.num_documents, fetched.checked) == (210, False)
    collection = load_collection("toefl", "full")
    assert collection.content_hash == hashlib.sha256(file.read_bytes()).hexdigest() == fetched.sha256
    assert json.loads((home / "datasets" / "toefl.fetched.json").read_text())["origin"] == str(file)


def test_fetching_from_an_address_checks_the_checksum(home: Path) -> None:
    url, digest = (DATA_FOLDER / "squad.json").as_uri(), SOURCES["squad"].sha256
    with pytest.raises(DataError, match="expected 80a5225e"):
        fetch("squad", url=url, sha256=digest)
    assert list((home / "datasets").iterdir()) == [], "nothing is left behind"
    right = hashlib.sha256((DATA_FOLDER / "squad.json").read_bytes()).hexdigest()
    assert fetch("squad", url=url, sha256=right).checked


def test_failed_fetches_keep_what_was_there(tmp_path: Path) -> None:
    fetch("toefl", from_file=DATA_FOLDER / "toefl.jsonl")
    before = fetched_path(SOURCES["toefl"]).read_bytes()
    (tmp_path / "broken.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"no usable question in toefl; first problem: .*/broken\.jsonl:1: no field"):
        fetch("toefl", from_file=tmp_path / "broken.jsonl")
    with pytest.raises(DataError, match=r"/broken\.jsonl is not a SQuAD 2\.0 file: no list 'data'"):
        fetch("squad", from_file=tmp_path / "broken.jsonl")
    with pytest.raises(DataError, match="cannot fetch"):
        fetch("toefl", url=(tmp_path / "absent").as_uri())
    with pytest.raises(DataError, match="unknown data set"):
        fetch("mmlu")
    assert fetched_path(SOURCES["toefl"]).read_bytes() == before


def test_the_data_set_is_part_of_the_identity_but_its_path_is_not(tmp_path: Path) -> None:
    task = get_task("qa_squad")
    copy = tmp_path / "copy.json"
    copy.write_bytes((DATA_FOLDER / "squad.json").read_bytes())
    shipped = task.identity_parameters(task.parse_parameters({"dataset": "sample"}))
    assert task.identity_parameters(task.parse_parameters({"dataset": str(copy)})) == shipped
    copy.write_bytes(copy.read_bytes() + b"\n")
    assert task.identity_parameters(task.parse_parameters({"dataset": str(copy)})) != shipped


@pytest.mark.parametrize("name", ["qa_squad", "qa_quality", "qa_toefl"])
def test_the_asked_document_is_whole_and_where_the_question_says(name: str, byte_bpe: Tokenizer) -> None:
    task = get_task(name)
    collection = load_collection(name.removeprefix("qa_"), "sample")
    for index in range(6):
        sample = task.sample(
            task.parse_parameters({"dataset": "sample"}), length_tokens=3000, tokenizer=byte_bpe, seed=2, index=index
        )
        text = sample.prompt.partition(f"Document {sample.extras['document']}:\n")[2]
        assert any(text.startswith(document) for document in collection.documents)
        assert f"According to Document {sample.extras['document']}:" in sample.prompt
        assert not sample.extras["repeated"]


def test_a_small_data_set_says_that_it_is_too_small(byte_bpe: Tokenizer) -> None:
    task = get_task("qa_toefl")
    with pytest.raises(DataError, match="all 210 documents fill only"):
        task.sample(
            task.parse_parameters({"dataset": "sample"}), length_tokens=131072, tokenizer=byte_bpe, seed=2, index=0
        )


@pytest.mark.skipif(not _REAL_TOEFL.is_file(), reason="the real TOEFL-QA file is not beside this checkout")
def test_the_real_toefl_file(byte_bpe: Tokenizer) -> None:
    fetched = fetch("toefl", from_file=_REAL_TOEFL)
    assert (fetched.num_documents, fetched.num_questions, fetched.skipped, fetched.checked) == (198, 962, (), True)
    collection = load_collection("toefl", "full")
    assert [sum(len(one.answers[0]) == size for one in collection.questions) for size in (1, 2, 3)] == [829, 130, 3]
    task = get_task("qa_toefl")
    for length in (8192, 32768):
        sample = task.sample(task.parse_parameters({}), length_tokens=length, tokenizer=byte_bpe, seed=43, index=5)
        assert 0.95 * length <= sample.num_prompt_tokens <= length
        assert task.score(sample, sample.gold_completion).value == 1.0
