"""QA QuALITY (arXiv 2112.08608) and TOEFL-QA (arXiv 1608.06378): multiple choice about one of many documents."""

from __future__ import annotations

import re

from tasks.answers import read_answer
from tasks.prompts import PromptWords
from tasks.qa.articles import LETTERS
from tasks.qa.task import QuestionTask
from tasks.sample import Sample, Score, scored, unanswered

_LIST = re.compile(r"[A-D]+")
_OPTION = re.compile(r"\(?([A-D])[.):]\s")
_SEPARATORS = re.compile(r"[\s,;/&.()\[\]*`'\"]+|\bAND\b")


class ChoiceTask(QuestionTask):
    """Answer with letters; value = exact match of the set of letters."""

    def words(self, question: str, number: int) -> PromptWords:
        return PromptWords(
            introduction="The context holds numbered documents. Answer the multiple-choice question about one of them.",
            question=f"According to Document {number}: {question}",
            answer_format="<letter>",
            rules=(
                "Answer with the letter of the right option, without its text.",
                "If several options are right, give all their letters, separated by commas.",
            ),
        )

    def judge(self, sample: Sample, completion: str, compat: bool) -> Score:
        found = read_answer(completion, primed=sample.primed)
        if found is None:
            return unanswered("no answer block")
        letters = "".join(sorted(re.sub(f"[^{LETTERS}]", "", found.upper()))) if compat else listed_letters(found)
        if not letters:
            return scored(0.0, found, "not a list of letters")
        return scored(float(letters == sample.gold[0]), found, f"read as {letters}")


def listed_letters(text: str) -> str:
    """The letters of a list such as "B", "(b)", "A, C", "A and C" or "AC", in order, once each; "" for other text.

    A line may also be an option with its text, such as "B. It rose".
    """
    found: set[str] = set()
    for line in filter(None, (line.strip() for line in text.upper().splitlines())):
        words = [word for word in _SEPARATORS.split(line) if word]
        option = _OPTION.match(line)
        if all(_LIST.fullmatch(word) for word in words):
            found.update("".join(words))
        elif option:
            found.add(option.group(1))
        else:
            return ""
    return "".join(sorted(found))


class QualityTask(ChoiceTask):
    """Multiple choice about long articles."""

    name = "qa_quality"
    source = "quality"


class ToeflTask(ChoiceTask):
    """Multiple choice about lectures and conversations."""

    name = "qa_toefl"
    source = "toefl"
