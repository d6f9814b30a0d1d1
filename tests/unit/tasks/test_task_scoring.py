"""Scoring: the table of differences between the two rule sets, and scorers that take any text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import ParameterError
from tasks.registry import get_task, task_names
from tasks.sample import RULES, Sample, Verdict

GOLD: dict[str, Any] = {
    "ruler_niah": ([["K1", "v1"], ["K2", "v2"]], "1. K1: v1\n2. K2: v2"),
    "ruler_vt": (["AAAAA", "BBBBB"], "AAAAA BBBBB"),
    "ruler_cwe": (["apple", "pear"], "1. apple\n2. pear"),
    "qa_squad": (["the red red boat"], "the red red boat"),
    "qa_quality": (["B"], "B"),
    "qa_toefl": (["AC"], "AC"),
    "story_retrieval": (["the mill", "Ann"], "1. the mill\n2. Ann"),
    "story_multihop": ("copper bell", "copper bell"),
    "story_filtering": ([2, 5], "Chapter 2, Chapter 5"),
}


def _sample(name: str) -> Sample:
    gold, answer = GOLD[name]
    return Sample(
        key="0" * 64, task=name, index=0, prompt="", prompt_token_ids=(1,), tail_tokens=0, gold=gold,
        gold_answer=answer, num_gold_tokens=1,
    )  # fmt: skip


U, C, W = Verdict.UNANSWERED, Verdict.CORRECT, Verdict.INCORRECT

# task, completion, (verdict, value) under the default rules, (verdict, value) under sparse_frontier_v1
DIFFERENT = [
    # no answer block: three tasks of the reference read the whole output
    ("ruler_niah", "1. K1: v1\n2. K2: v2", (U, 0.0), (C, 1.0)),
    ("ruler_niah", "I do not know", (U, 0.0), (W, 0.0)),
    ("ruler_vt", "AAAAA BBBBB", (U, 0.0), (C, 1.0)),
    ("story_retrieval", "1. the mill\n2. Ann", (U, 0.0), (C, 1.0)),
    # the reference drops samples from the mean
    ("story_multihop", "copper bell", (U, 0.0), (U, None)),
    ("story_multihop", "", (U, 0.0), (U, None)),
    ("story_filtering", "", (U, 0.0), (U, None)),
    ("story_filtering", "  \n", (U, 0.0), (U, None)),
    # letters out of free text, repeated letters
    ("qa_quality", "<answer>B, if true</answer>", (W, 0.0), (C, 1.0)),
    ("qa_quality", "<answer>none, I believe</answer>", (W, 0.0), (C, 1.0)),
    ("qa_quality", "<answer>B. a dog came</answer>", (C, 1.0), (W, 0.0)),
    ("qa_toefl", "<answer>A) rain\nC) dew</answer>", (C, 1.0), (W, 0.0)),
    ("qa_toefl", "<answer>A and C</answer>", (C, 1.0), (W, 0.0)),
    ("qa_toefl", "<answer>A, C, C</answer>", (C, 1.0), (W, 0.0)),
    # F1 of sets, rounded
    ("qa_squad", "<answer>red boat</answer>", (W, 0.8), (C, 1.0)),
    ("qa_squad", "<answer>red car here now</answer>", (W, 2 / 7), (W, 0.33)),
]
SAME = [
    ("ruler_niah", "", U, 0.0),
    ("ruler_niah", "<answer>1. K1: V1.\n2. K2: v3</answer>", W, 0.5),
    ("ruler_niah", "<ANSWER>1. The value stored for K1 is: v1\n1. K1: v9\n2) K2:  v2 </ANSWER>", C, 1.0),
    ("ruler_niah", "<answer>1. k1: v1\n2. K1: v1</answer>", W, 0.0),
    ("ruler_niah", "<answer>1. Let me look\n1. K1: v1\n1. K1: v9\n2. K2: v2</answer>", C, 1.0),
    ("ruler_niah", "<answer>1. K1:\n2. K2: v2 or v3</answer>", W, 0.0),
    ("ruler_vt", "<answer>VAR aaaaa CCCCC</answer>", W, 1 / 3),
    ("ruler_cwe", "1. apple\n2. pear", U, 0.0),
    ("ruler_cwe", "<answer>1. Apple\npear\n3) plum</answer>", W, 1 / 3),
    ("qa_squad", "the red red boat", U, 0.0),
    ("qa_squad", "<answer>A red, red boat!</answer>", C, 1.0),
    ("qa_quality", "B", U, 0.0),
    ("qa_quality", "<answer>(b)</answer>", C, 1.0),
    ("qa_quality", '<answer>"B"</answer>', C, 1.0),
    ("qa_quality", "<answer>BAD</answer>", W, 0.0),
    ("qa_quality", "<answer>A</answer><answer>B</answer>", W, 0.0),
    ("qa_toefl", "<answer>C, A</answer>", C, 1.0),
    ("qa_toefl", "<answer>A</answer>", W, 0.0),
    ("story_retrieval", "<answer>1. A mill.\n2. ANN</answer>", C, 1.0),
    ("story_retrieval", "<answer>1. the mill</answer>", W, 0.5),
    ("story_multihop", "<answer>A copper bell.</answer>", C, 1.0),
    ("story_multihop", "<answer>bell</answer>", W, 0.0),
    ("story_filtering", "Chapter 2, Chapter 5", U, 0.0),
    ("story_filtering", "<answer>chapters 2 and 07</answer>", W, 1 / 3),
    ("story_filtering", "<answer>none</answer>", W, 0.0),
]


@pytest.mark.parametrize(("name", "completion", "default", "reference"), DIFFERENT)
def test_rules_differ_where_the_reference_is_lenient_or_odd(
    name: str, completion: str, default: tuple[Verdict, float], reference: tuple[Verdict, float | None]
) -> None:
    task, sample = get_task(name), _sample(name)
    honest, compat = task.score(sample, completion), task.score(sample, completion, "sparse_frontier_v1")
    assert (honest.verdict, honest.value) == (default[0], pytest.approx(default[1]))
    assert compat.verdict is reference[0]
    assert compat.value == (None if reference[1] is None else pytest.approx(reference[1]))


@pytest.mark.parametrize(("name", "completion", "verdict", "value"), SAME)
def test_rules_agree_everywhere_else(name: str, completion: str, verdict: Verdict, value: float) -> None:
    task, sample = get_task(name), _sample(name)
    if completion == "" and name == "ruler_niah":
        assert task.score(sample, completion, "sparse_frontier_v1").verdict is U
    for rules in RULES:
        score = task.score(sample, completion, rules)
        assert (score.verdict, score.value) == (verdict, pytest.approx(value)), rules


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", task_names())
def test_gold_scores_one_and_says_what_it_read(name: str, rules: str) -> None:
    score = get_task(name).score(_sample(name), _sample(name).gold_completion, rules)
    assert (score.verdict, score.value) == (Verdict.CORRECT, 1.0)
    assert score.extracted


_ODD = st.lists(
    st.one_of(
        st.text(max_size=30),
        st.sampled_from(("<answer>", "</answer>", "1. ", "\n", "K1: v1", "A", "AND", "VAR ", "²", "١", "9" * 5000)),
    ),
    max_size=12,
).map("".join)


@pytest.mark.parametrize("name", task_names())
@settings(deadline=None, derandomize=True, max_examples=60)
@given(text=_ODD, wrapped=st.booleans())
def test_scorers_take_any_text(name: str, text: str, wrapped: bool) -> None:
    completion = f"<answer>{text}</answer>" if wrapped else text
    honest = get_task(name).score(_sample(name), completion)
    assert honest.value is not None
    assert 0.0 <= honest.value <= 1.0
    assert (honest.value == 1.0) == (honest.verdict is Verdict.CORRECT)
    assert honest.verdict is not Verdict.UNANSWERED or honest.value == 0.0
    compat = get_task(name).score(_sample(name), completion, "sparse_frontier_v1")
    assert compat.value is None or 0.0 <= compat.value <= 1.0
    assert compat.value is not None or name in ("story_multihop", "story_filtering")


def test_unknown_rules_are_named() -> None:
    with pytest.raises(ParameterError, match="sparse_frontier_v1, not 'lenient'"):
        get_task("ruler_vt").score(_sample("ruler_vt"), "", "lenient")
