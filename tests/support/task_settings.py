"""Task parameters that fit a length, and question answering files about invented things that an oracle can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.qa.articles import write_quality, write_squad, write_toefl
from tasks.qa.invented import invented_articles

_FILES = {"qa_squad": "squad.json", "qa_quality": "quality.jsonl", "qa_toefl": "toefl.jsonl"}
_SMALL: dict[str, dict[str, Any]] = {
    "ruler_niah": {"num_queries": 2},
    "ruler_vt": {"num_chains": 4, "num_hops": 2},
    "ruler_cwe": {"num_common_words": 5, "common_word_frequency": 10, "rare_word_frequency": 2},
    "story_retrieval": {"num_queries": 2, "num_conversations": 1},
    "story_filtering": {"chapters_in_question": 1, "num_conversations": 1},
}
DEFAULTS_FROM_TOKENS = 8192
"""From this length on every task fits with the paper's parameters, whatever the tokenizer of these tests."""


def write_invented_data(folder: Path, num_articles: int) -> Path:
    """The three question answering files in the public formats."""
    articles = invented_articles(num_articles)
    write_squad(articles, folder / "squad.json")
    write_quality(articles, folder / "quality.jsonl")
    write_toefl(articles, folder / "toefl.jsonl")
    return folder


def settings(task: str, length_tokens: int, data: Path) -> dict[str, Any]:
    """The paper's parameters where they fit, smaller ones below; data sets from `data`."""
    if task in _FILES:
        return {"dataset": str(data / _FILES[task])}
    return _SMALL.get(task, {}) if length_tokens < DEFAULTS_FROM_TOKENS else {}
