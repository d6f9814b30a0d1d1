"""QA SQuAD: a short phrase out of one of many paragraphs (SQuAD 2.0, arXiv 1806.03822; answerable questions only)."""

from __future__ import annotations

import string
from collections import Counter

from tasks.answers import plain, read_answer
from tasks.prompts import PromptWords
from tasks.qa.task import QuestionTask
from tasks.sample import Sample, Score, scored, unanswered

_SMALL_WORDS = frozenset(("a", "an", "the", "and", "or", "about", "to"))
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class SquadTask(QuestionTask):
    """Answer with a phrase; value = token F1, the best over the accepted phrases."""

    name = "qa_squad"
    source = "squad"

    def words(self, question: str, number: int) -> PromptWords:
        return PromptWords(
            introduction="The context holds numbered documents. Answer the question about one of them.",
            question=f"According to Document {number}: {question}",
            answer_format="<short phrase>",
            rules=(
                "Answer with a short phrase out of the document, not with a full sentence.",
                "Give dates in full and the names of places as short as possible.",
            ),
        )

    def judge(self, sample: Sample, completion: str, compat: bool) -> Score:
        found = read_answer(completion, primed=sample.primed)
        if found is None:
            return unanswered("no answer block")
        measure = _set_f1 if compat else _f1
        value = max(measure(found, str(gold)) for gold in sample.gold)
        return scored(value, found, f"F1 {value:.2f}")


def _tokens(text: str) -> list[str]:
    words = text.lower().translate(_PUNCTUATION).split()
    return [word for word in words if word not in _SMALL_WORDS]


def _f1(found: str, gold: str) -> float:
    """F1 over the words of both, each as often as it occurs."""
    left, right = Counter(_tokens(found)), Counter(_tokens(gold))
    return _harmonic((left & right).total(), left.total(), right.total(), plain(found) == plain(gold))


def _set_f1(found: str, gold: str) -> float:
    """F1 over the sets of words, rounded to two decimals, as the reference implementation has it."""
    left, right = set(_tokens(found)), set(_tokens(gold))
    return round(_harmonic(len(left & right), len(left), len(right), plain(found) == plain(gold)), 2)


def _harmonic(num_common: int, num_found: int, num_gold: int, same: bool) -> float:
    if num_common == 0:
        return float(same)
    return 2 * num_common / (num_found + num_gold)
