"""Two hundred samples a task at 4k tokens: a perfect reader scores 1, a shuffled answer sheet scores like chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from math import comb, sqrt
from pathlib import Path
from statistics import fmean, stdev

import pytest

from tasks.registry import get_task, task_names
from tasks.sample import Sample
from tasks.tokenizer import Tokenizer
from tests.support.oracles import solve
from tests.support.task_settings import settings

_NUM_SAMPLES = 200
Drawn = Callable[[str], list[Sample]]


@pytest.fixture(scope="module")
def drawn(byte_bpe: Tokenizer, invented_data: Path) -> Drawn:
    @cache
    def samples(name: str) -> list[Sample]:
        task = get_task(name)
        chosen = settings(name, 8192, invented_data) | ({"num_queries": 8} if name == "story_retrieval" else {})
        parameters = task.parse_parameters(chosen)
        return [
            task.sample(parameters, length_tokens=4096, tokenizer=byte_bpe, seed=43, index=index)
            for index in range(_NUM_SAMPLES)
        ]

    return samples


@pytest.mark.parametrize("name", task_names())
def test_a_perfect_reader_scores_one(name: str, drawn: Drawn) -> None:
    task = get_task(name)
    values = [task.score(one, f"<answer>{solve(name, one.prompt)}</answer>").value for one in drawn(name)]
    assert values == [1.0] * _NUM_SAMPLES


def _shuffled_values(name: str, samples: list[Sample]) -> list[float]:
    task = get_task(name)
    scores = [task.score(one, other.gold_completion) for one, other in pairwise([*samples, samples[0]])]
    return [score.value or 0.0 for score in scores]


@pytest.mark.parametrize("name", ["ruler_niah", "ruler_vt", "ruler_cwe", "story_multihop", "story_retrieval"])
def test_answers_of_other_samples_are_worth_next_to_nothing(name: str, drawn: Drawn) -> None:
    """Expected: 0 for random codes and names, below 0.001 for words, below 0.01 for facts of the story world."""
    assert fmean(_shuffled_values(name, drawn(name))) <= 0.015


@pytest.mark.parametrize("name", ["qa_quality", "qa_toefl"])
def test_letters_of_other_samples_score_like_chance(name: str, drawn: Drawn) -> None:
    samples = drawn(name)
    counts = Counter(one.gold[0] for one in samples)
    expected = sum(count * (count - 1) for count in counts.values()) / (len(samples) * (len(samples) - 1))
    _assert_near(_shuffled_values(name, samples), expected)


def test_chapters_of_other_samples_score_like_chance(drawn: Drawn) -> None:
    samples = drawn("story_filtering")
    sizes = [one.prompt.count("\nChapter ") for one in samples]
    values = _shuffled_values("story_filtering", samples)
    _assert_near(values, fmean(_expected_overlap(3, size) for size in sizes), extra=0.02)


def _expected_overlap(chosen: int, size: int) -> float:
    """Mean intersection over union of two independent sets of `chosen` out of `size`."""
    chances = [comb(chosen, k) * comb(size - chosen, chosen - k) / comb(size, chosen) for k in range(chosen + 1)]
    return sum(chance * k / (2 * chosen - k) for k, chance in enumerate(chances))


def _assert_near(values: list[float], expected: float, extra: float = 0.0) -> None:
    """Within four standard errors; `extra` allows for stories of different sizes."""
    assert abs(fmean(values) - expected) <= 4 * stdev(values) / sqrt(len(values)) + extra, (fmean(values), expected)
