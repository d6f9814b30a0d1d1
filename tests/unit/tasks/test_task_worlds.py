"""What the contexts hold: sizes and structure of the paper, consistency, difficulty knobs, refused parameters."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

from tasks.errors import ParameterError
from tasks.registry import get_task, task_names
from tasks.sample import Sample
from tasks.story import templates, world
from tasks.tokenizer import Tokenizer


def _sample(tokenizer: Tokenizer, name: str, length: int = 4096, index: int = 0, **parameters: Any) -> Sample:
    task = get_task(name)
    return task.sample(
        task.parse_parameters(parameters), length_tokens=length, tokenizer=tokenizer, seed=9, index=index
    )


def _context(sample: Sample) -> str:
    return sample.prompt.partition("<context>\n")[2].rpartition("\n</context>")[0]


def test_the_story_world_has_the_sizes_of_the_paper() -> None:
    sizes = [len(set(words)) for words in (world.LOCATIONS, world.CHARACTERS, world.EVENTS, world.ADJECTIVES,
             world.MATERIALS, world.TYPES)]  # fmt: skip
    assert sizes == [64, 49, 20, 18, 15, 21]
    tens = ("SCENE", "REASON", "EVENT", "ENCOUNTER", "FAREWELL", "CONCLUSION", "CLOSING")
    assert {len(set(getattr(templates, kind))) for kind in tens} == {10}
    others = (templates.CONVERSATION, templates.PURCHASE, templates.SALE)
    assert [len(set(sentences)) for sentences in others] == [30, 9, 5]


def test_needles_are_unique_codes_of_four_parts(byte_bpe: Tokenizer) -> None:
    pairs = re.findall(r"The value stored for (\S+) is: (\S+)\.", _context(_sample(byte_bpe, "ruler_niah", 16384)))
    texts = [text for pair in pairs for text in pair]
    assert len(set(texts)) == len(texts) > 200
    assert all(re.fullmatch(r"[a-z0-9]{8}(-[a-z0-9]{8}){3}", text) for text in texts)


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 1.0])
def test_needles_stand_at_the_depth_that_was_asked_for(depth: float, byte_bpe: Tokenizer) -> None:
    sample = _sample(byte_bpe, "ruler_niah", depth=depth, num_queries=1, haystack="sentences", needle="numbers")
    context = _context(sample)
    place = context.index(sample.gold[0][0])
    assert abs(place / len(context) - depth) < 0.04


def test_distractors_stand_among_plain_sentences(byte_bpe: Tokenizer) -> None:
    sample = _sample(byte_bpe, "ruler_niah", haystack="sentences", num_distractors=7, num_queries=2, needle="words")
    assert len(re.findall("The value stored for", _context(sample))) == 9


def test_variables_have_chains_and_distractors(byte_bpe: Tokenizer) -> None:
    context = _context(_sample(byte_bpe, "ruler_vt"))
    assignments = re.findall(r"VAR ([A-Z]{5}) = (VAR [A-Z]{5}|\d{5})\.", context)
    assert len(assignments) == len({name for name, _ in assignments}) == 40
    assert sum(source.isdigit() for _, source in assignments) == 8


def test_chains_may_keep_their_order(byte_bpe: Tokenizer) -> None:
    context = _context(_sample(byte_bpe, "ruler_vt", in_order=True, num_chains=3))
    known: set[str] = set()
    for name, source in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)\.", context):
        assert source.isdigit() or source in known
        known.add(name)


def test_common_words_occur_as_often_as_the_paper_says(byte_bpe: Tokenizer) -> None:
    sample = _sample(byte_bpe, "ruler_cwe", 8192)
    lines = [line.split(". ") for line in _context(sample).split("\n")]
    assert [number for number, _ in lines] == [str(number) for number in range(1, len(lines) + 1)]
    counts = Counter(word for _, word in lines)
    assert Counter(counts.values())[30] == 10
    assert set(counts.values()) == {30, 3}
    assert {word for word, count in counts.items() if count == 30} == set(sample.gold)


def _sold_before_bought(sample: Sample) -> list[str]:
    """Items that are sold although no chapter before bought them."""
    item = r"an? ((?:[\w-]+ ){2}[\w -]+?)"
    sold = rf"(?:sold|parted with|into selling|price for) {item}(?: that she| for a few|\.|,)"
    verbs = "bought|purchased|owner of|acquired|dealer sold|picked out"
    bought = rf"(?:{verbs}) {item}(?: from a pedlar| to Tamsin| and paid|\.)"
    owned: set[str] = set()
    wrong = []
    for chapter in _context(sample).split("\n\n"):
        wrong += [name for name in re.findall(sold, chapter) if name not in owned and "dealer sold" not in chapter]
        owned.update(re.findall(bought, chapter))
    return wrong


def test_nothing_is_sold_that_was_never_bought(byte_bpe: Tokenizer) -> None:
    """Except where the reference's stories are asked for, which sell items whose purchase was deleted."""
    wanted = {"chapters_in_question": 8}
    honest = [_sold_before_bought(_sample(byte_bpe, "story_filtering", 8192, at, **wanted)) for at in range(12)]
    reference = [
        _sold_before_bought(_sample(byte_bpe, "story_filtering", 8192, at, consistent=False, **wanted))
        for at in range(12)
    ]
    assert not any(honest)
    assert any(reference)


def test_conversations_lengthen_chapters(byte_bpe: Tokenizer) -> None:
    counts = [_sample(byte_bpe, "story_multihop", num_conversations=n).prompt.count("\nChapter ") for n in (0, 3, 12)]
    assert counts[0] > counts[1] > counts[2]


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("ruler_niah", {"queries": 3}, r"ruler_niah has no parameter 'queries'; it has depth, "),
        ("ruler_niah", {"num_queries": 0}, r"ruler_niah\.num_queries must lie in \[1, 64\], not 0"),
        ("ruler_niah", {"num_queries": "4"}, r"must be an integer, not '4'"),
        ("ruler_niah", {"num_queries": True}, r"must be an integer, not True"),
        ("ruler_niah", {"depth": 1.5}, r"depth must lie in \[0\.0, 1\.0\], not 1\.5"),
        ("ruler_niah", {"needle": "hay"}, r"must be one of codes, words, numbers, not 'hay'"),
        ("ruler_niah", {"num_distractors": 3}, r"needs haystack: sentences"),
        ("ruler_cwe", {"rare_word_frequency": 30}, r"rare_word_frequency \(30\) must be below"),
        ("story_filtering", {"consistent": "no"}, r"must be true or false, not 'no'"),
        ("qa_squad", {"dataset": ""}, r"must not be empty"),
    ],
)
def test_wrong_parameters_are_named(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        get_task(name).parse_parameters(parameters)


def test_nine_tasks_and_no_more() -> None:
    assert len(task_names()) == 9
    assert [name for name in task_names() if get_task(name).approximation_window == 512] == [
        "ruler_niah", "story_retrieval",
    ]  # fmt: skip
    with pytest.raises(ParameterError, match="unknown task 'ruler_qa'; the tasks are ruler_niah"):
        get_task("ruler_qa")
