"""A model's tokenizer and chat template, read from its Hugging Face folder without transformers.

A long prompt is encoded piece by piece, with a memory of pieces, because a sentence or a list line comes back in many
samples and one encode of 128k tokens takes a quarter of a second. Pieces begin at a *cut*: before a space, or before a
newline that follows a letter or digit. At load time a set of probes decides whether the tokenizer encodes pieces as it
encodes their concatenation (`exact`); if not, whole prompts are encoded.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from tasks.chat_template import ChatTemplate, read_chat_template
from tasks.errors import TokenizerError
from tasks.pieces import cut_at_spaces

_ANCHOR = "x"
_MAX_REMEMBERED_TOKENS = 8_000_000
_BYTES_A_PIECE = 40
_LEFT_ENDS = ("x", "end.", "a word", "\n\nChapter", 'so?"', "key:", "12.", "7", "=", "cut)", "it's", "K-9")
_RIGHT_STARTS = (" The", " a", " 12", " x9k-", ' "So', " (b", " = 5", " -", "\n13. A", " é")


class EncodedPrompt(NamedTuple):
    """Token ids of a whole prompt and how many of them follow the context."""

    ids: tuple[int, ...]
    tail_tokens: int


class Tokenizer:
    """Encodes text and chat prompts; `fingerprint` names the tokenizer together with its chat template."""

    def __init__(self, backend: tokenizers.Tokenizer, template: ChatTemplate, fingerprint: str) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._template = template
        self.fingerprint = fingerprint
        self._pieces: dict[str, array[int]] = {}
        self._num_remembered = 0
        self._anchor_ids = self.encode(_ANCHOR)

    @cached_property
    def exact(self) -> bool:
        """Whether pieces cut at spaces encode exactly like their concatenation."""
        return all(
            self._joins(left, right)
            for left in _LEFT_ENDS
            for right in _RIGHT_STARTS
            if right[0] == " " or left[-1].isalnum()
        )

    def _joins(self, left: str, right: str) -> bool:
        alone = self._anchored(right)
        return alone is not None and self.encode(left + right) == [*self.encode(left), *alone]

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` alone, without special tokens added around it."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def document(self, text: str) -> list[int]:
        """Token ids of a whole prompt without a chat template: with the special tokens that the tokenizer adds around a
        text, unless it begins with the same one already."""
        plain, framed = self.encode(text), list(self._backend.encode(text, add_special_tokens=True).ids)
        return plain if plain[:1] == framed[:1] and len(plain) < len(framed) else framed

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def chat(self, user_text: str) -> list[int]:
        """Token ids of one user message in the chat template, ready for the model's reply."""
        return self.encode(self.render(user_text))

    def render(self, user_text: str) -> str:
        """The text of one user message in the chat template, up to where the model's reply begins."""
        return self._template.render(user_text)

    def conversation(self, messages: Sequence[Mapping[str, str]], *, reply: bool = True) -> str:
        """The text of several messages with `role` and `content`; see `ChatTemplate.conversation`."""
        return self._template.conversation(messages, reply=reply)

    def piece(self, text: str) -> array[int]:
        """Token ids of a piece inside a longer text; `text` begins at a cut. Remembered, within bounds."""
        known = self._pieces.get(text)
        if known is None:
            known = self._anchored(text) or array("I", self.encode(text))
            self._remember(text, known)
        return known

    def first_words(self, text: str, max_tokens: int) -> str:
        """The longest beginning of `text` that ends at a word's end and has about `max_tokens` tokens at most."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        if len(encoding.ids) <= max_tokens:
            return text
        start = encoding.offsets[max(0, max_tokens)][0]
        return text[: max(0, text.rfind(" ", 0, start + 1))].rstrip()

    def _remember(self, text: str, ids: array[int]) -> None:
        self._num_remembered += len(ids) + len(text) // 4 + _BYTES_A_PIECE
        if self._num_remembered > _MAX_REMEMBERED_TOKENS:
            self._pieces.clear()
            self._num_remembered = len(ids)
        self._pieces[text] = ids

    def encode_prompt(self, head: str, context: Iterable[str], tail: str, opening: str = "") -> EncodedPrompt:
        """The chat prompt of head + context segments + tail; `opening` starts the model's reply."""
        frame = self._template.frame
        if not self.exact or frame is None:
            return self._encode_whole(head + "".join(context), tail, opening)
        pieces = cut_at_spaces([frame.before + head, *context])
        context_end = pieces[-1]
        last = cut_at_spaces([tail + frame.after + opening], after=pieces)
        ids = self.encode(pieces[0])
        remembered = self._pieces.get
        for text in pieces[1:]:
            ids.extend(remembered(text) or self.piece(text))
        num_before_tail = len(ids) - self._num_grown(context_end, pieces[-1])
        for text in last:
            ids.extend(self._after_word(text))
        return EncodedPrompt(tuple(ids), len(ids) - num_before_tail)

    def _num_grown(self, piece: str, longer: str) -> int:
        """Tokens by which a piece grew when it took the first words of what follows."""
        return 0 if piece == longer else len(self._after_word(longer)) - len(self._after_word(piece))

    def _encode_whole(self, body: str, tail: str, opening: str) -> EncodedPrompt:
        ids = self.encode(self._template.render(body + tail) + opening)
        rest = self._template.render(_ANCHOR + tail).partition(tail)[2]
        return EncodedPrompt(tuple(ids), min(len(ids), len(self._after_word(tail + rest + opening))))

    def _after_word(self, text: str) -> Sequence[int]:
        return self._anchored(text) or self.encode(text)

    def _anchored(self, text: str) -> array[int] | None:
        """Ids of `text` after another word: what a prefix space would spoil in a plain encode."""
        ids = self._backend.encode(_ANCHOR + text, add_special_tokens=False).ids
        size = len(self._anchor_ids)
        return array("I", ids[size:]) if ids[:size] == self._anchor_ids else None


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer in `folder` (tokenizer.json, tokenizer_config.json or chat_template.jinja).

    Raises TokenizerError naming the folder when a part is missing or unreadable.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise TokenizerError(f"no tokenizer.json in {folder}")
    content = path.read_bytes()
    config = _read_config(Path(folder))
    template = read_chat_template(Path(folder), config)
    digest = hashlib.sha256(content)
    digest.update(template.identity.encode())
    try:
        backend = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"cannot read {path}: {error}") from error
    return Tokenizer(backend, template, digest.hexdigest())


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise TokenizerError(f"cannot read {path}: {error}") from error
    if not isinstance(config, dict):
        raise TokenizerError(f"{path} does not hold an object")
    return config
