"""A tokenizer and texts that need no model, for tests of training."""

from __future__ import annotations

from pathlib import Path


class WordTokenizer:
    """A token a word."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [sum(word.encode()) % 97 for word in text.split()]}

    def save_pretrained(self, folder: Path) -> None:
        """Leaves a file, as a tokenizer of transformers does."""
        (folder / "words.txt").write_text("a token a word")


def write_documents(folder: Path) -> None:
    """Thirty documents of 300 words."""
    folder.mkdir()
    for number in range(30):
        words = " ".join(f"w{number * word % 23}" for word in range(300))
        (folder / f"{number}.txt").write_text(words)
