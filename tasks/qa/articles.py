"""Neutral form of an article with its questions, and writers of the three public formats.

The shipped sample data sets are made from it: forty passages that we wrote by hand, and more about invented things.
Run `python -m tasks.qa.articles` to write the shipped files anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LETTERS = "ABCD"
DATA_FOLDER = Path(__file__).parent / "data"
NUM_INVENTED = 170


@dataclass(frozen=True, slots=True)
class SpanQuestion:
    """A question whose answers are words of the article."""

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChoiceQuestion:
    """A question with four options; `letters` names the right ones."""

    text: str
    options: tuple[str, ...]
    letters: str


@dataclass(frozen=True, slots=True)
class Article:
    """A text with questions of both kinds."""

    title: str
    text: str
    spans: tuple[SpanQuestion, ...]
    choices: tuple[ChoiceQuestion, ...]


def written_articles() -> list[Article]:
    """The passages that were written by hand."""
    lines = (DATA_FOLDER / "written.jsonl").read_text("utf-8").splitlines()
    return [_article(json.loads(line)) for line in lines]


def _article(row: dict[str, Any]) -> Article:
    spans = tuple(SpanQuestion(text, tuple(answers)) for text, answers in row["spans"])
    choices = tuple(ChoiceQuestion(text, tuple(options), letters) for text, options, letters in row["choices"])
    return Article(row["title"], row["text"], spans, choices)


def write_squad(articles: Sequence[Article], path: Path) -> None:
    """SQuAD 2.0 JSON: data → paragraphs → qas with answers and their offsets."""
    data = [{"title": article.title, "paragraphs": [_paragraph(article)]} for article in articles]
    _write(path, json.dumps({"version": "v2.0", "data": data}, ensure_ascii=False) + "\n")


def _paragraph(article: Article) -> dict[str, Any]:
    questions = [
        {
            "id": f"{article.title} {number}",
            "question": question.text,
            "is_impossible": False,
            "answers": [{"text": text, "answer_start": article.text.find(text)} for text in question.answers],
        }
        for number, question in enumerate(article.spans)
    ]
    return {"context": article.text, "qas": questions}


def write_quality(articles: Sequence[Article], path: Path) -> None:
    """QuALITY JSONL: an article a line, options as a list, the gold label counted from 1; one right option each."""
    rows = []
    for article in articles:
        questions = [
            {
                "question": question.text,
                "options": list(question.options),
                "gold_label": LETTERS.index(question.letters) + 1,
            }
            for question in article.choices
            if len(question.letters) == 1
        ]
        rows.append(
            {"article_id": article.title, "title": article.title, "article": article.text, "questions": questions}
        )
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_toefl(articles: Sequence[Article], path: Path) -> None:
    """TOEFL-QA JSONL: context, questions with their options in one text, answers as letters."""
    rows = [
        {
            "context": article.text,
            "context_len": len(article.text.split()),
            "questions": [f"Question: {question.text} Options: {_options(question)} " for question in article.choices],
            "num_question": len(article.choices),
            "answer": [question.letters for question in article.choices],
            "dataset": "sample",
        }
        for article in articles
    ]
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _options(question: ChoiceQuestion) -> str:
    return " ".join(f"{letter}.{option}" for letter, option in zip(LETTERS, question.options, strict=True))


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, "utf-8")


def write_sample(folder: Path, num_invented: int = NUM_INVENTED) -> None:
    """The three sample files, from the written passages and `num_invented` invented ones."""
    from tasks.qa.invented import invented_articles

    articles = [*written_articles(), *invented_articles(num_invented)]
    write_squad(articles, folder / "squad.json")
    write_quality(articles, folder / "quality.jsonl")
    write_toefl(articles, folder / "toefl.jsonl")


if __name__ == "__main__":
    write_sample(DATA_FOLDER)
