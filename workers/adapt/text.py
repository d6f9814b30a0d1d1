"""Training text that needs no download: what Python's standard library and the installed packages carry.

Three kinds: the language reference of `pydoc_data.topics` (prose), the long descriptions in packages'
metadata (prose and examples), and the sources of the standard library. A window of tokens never
crosses a document, so that distant context is really related; whole documents are held out.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BUILT_IN = "python"
_SUFFIXES = {".txt", ".md", ".rst", ".py"}
_HELD_OUT_SHARE = 5


class TextError(ValueError):
    """Text that cannot be read or is too short; the message names it."""


class Document(NamedTuple):
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class TokenWindows:
    """Windows of equal length, each from one document."""

    train: NDArray[np.int32]
    """[windows, length]"""
    held_out: NDArray[np.int32]
    description: str

    def save(self, path: Path) -> None:
        np.savez(path, train=self.train, held_out=self.held_out, description=np.array(self.description))

    @classmethod
    def load(cls, path: Path) -> TokenWindows:
        with np.load(path) as file:
            return cls(file["train"], file["held_out"], str(file["description"]))


def documents(source: str) -> Iterator[Document]:
    """Documents of `python` (see the module) or of a folder of .txt, .md, .rst and .py files, in a fixed order."""
    if source == BUILT_IN:
        yield from _topics()
        yield from _descriptions()
        yield from _files(Path(sysconfig.get_path("stdlib")), depth=2)
        return
    folder = Path(source)
    if not folder.is_dir():
        raise TextError(f"{source} is not a folder of text, nor {BUILT_IN!r}")
    yield from _files(folder, depth=None)


def token_windows(
    source: str, tokenizer: Any, *, length: int, num_train: int, num_held_out: int, seed: int
) -> TokenWindows:
    """Draws windows; at most four from one document. Raises TextError when there is too little text."""
    held: list[list[int]] = []
    train: list[list[int]] = []
    order = sorted(documents(source), key=lambda d: _digest(f"{seed} {d.name}"))
    for document in order:
        target, wanted = (held, num_held_out) if _is_held_out(document.name) else (train, num_train)
        if len(target) < wanted and len(document.text) > 2 * length:
            target.extend(_windows(tokenizer, document.text, length)[: min(4, wanted - len(target))])
        if len(held) == num_held_out and len(train) == num_train:
            break
    if len(held) < num_held_out or len(train) < num_train:
        raise TextError(f"{source} yields {len(train)} training and {len(held)} held-out windows of {length} tokens")
    about = f"{source}: {len(train)} + {len(held)} windows of {length} tokens, documents split by name, seed {seed}"
    return TokenWindows(np.array(train, dtype=np.int32), np.array(held, dtype=np.int32), about)


def _windows(tokenizer: Any, text: str, length: int) -> list[list[int]]:
    ids = tokenizer(text[: 40 * length], add_special_tokens=False)["input_ids"]
    return [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]


def _is_held_out(name: str) -> bool:
    return int(_digest(name)[:8], 16) % _HELD_OUT_SHARE == 0


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _topics() -> Iterator[Document]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield Document(f"topic {name}", topics[name])


def _descriptions() -> Iterator[Document]:
    seen = set()
    for found in sorted(metadata.distributions(), key=lambda d: str(d.name)):
        text = (found.read_text("METADATA") or "").partition("\n\n")[2]
        if found.name not in seen:
            seen.add(found.name)
            yield Document(f"package {found.name}", text)


def _files(folder: Path, depth: int | None) -> Iterator[Document]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        foreign = "site-packages" in parts or (depth is not None and len(parts) > depth)
        if path.suffix in _SUFFIXES and path.is_file() and not foreign:
            yield Document("/".join(parts), path.read_text(encoding="utf-8", errors="replace"))
