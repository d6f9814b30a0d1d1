"""Code blocks of documents, and a reader that types them as they stand."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import build_app
from orchestrator.library import Campaign

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
RUN_FLAGS = ["--engine", "fake", "--pool", "inline", "--plain"]


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a document."""

    language: str
    text: str
    line: int


def blocks(path: Path) -> Iterator[Block]:
    """Every fenced block of a Markdown file, in order."""
    text = path.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        yield Block(match[2], match[3], text.count("\n", 0, match.start()) + 1)


class Reader:
    """Types a document's commands in one folder. The fake engine stands for the model's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._app = build_app()
        self._names: dict[str, Any] = {}
        for maker in ("from_file", "from_spec"):
            monkeypatch.setattr(Campaign, maker, functools.partial(getattr(Campaign, maker), engine="fake"))
        run = Campaign.run
        monkeypatch.setattr(
            Campaign, "run", lambda self, **given: run(self, **{**given, "pool": "inline", "progress": "none"})
        )

    def types(self, block: Block) -> None:
        """Does what a bash or python block says. Raises AssertionError at the first command that fails."""
        if block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block.text, f"block at line {block.line}", "exec"), self._names)
            return
        for line in block.text.splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] == "frontier":
                self._frontier(words[1:])
            elif words:
                subprocess.run(["bash", "-c", line], check=True, timeout=60)

    def _frontier(self, words: list[str]) -> None:
        flags = RUN_FLAGS if words[0] == "run" else []
        done = CliRunner().invoke(self._app, [*words, *flags], standalone_mode=False)
        told = done.output + repr(done.exception)
        assert done.exception is None, f"frontier {' '.join(words)}: {told}"
        assert done.return_value in (0, None), f"frontier {' '.join(words)} → {done.return_value}: {told}"
