"""A model's chat template: Jinja, rendered for one user message without a clock, so that prompts keep their bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tasks.errors import TokenizerError

_MARK = "frontier user text goes here"


class Frame(NamedTuple):
    """The text that a template puts around the user's message."""

    before: str
    after: str


class _Generation(Extension):
    """Renders the body of a `generation` tag, which some templates use to mark the model's own text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """One template with the special tokens that it names."""

    def __init__(self, source: str, tokens: dict[str, str], where: str) -> None:
        self._tokens = tokens
        self._where = where
        self.identity = json.dumps([source, tokens], sort_keys=True)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise TokenizerError(f"chat template in {where}: {error}") from error

    def render(self, user_text: str) -> str:
        """The prompt for one user message, up to where the model's reply begins."""
        return self.conversation([{"role": "user", "content": user_text}])

    def conversation(self, messages: Sequence[Mapping[str, str]], *, reply: bool = True) -> str:
        """Messages with `role` and `content`, in turn; with `reply` up to where the model's next one begins."""
        try:
            return self._template.render(messages=list(messages), add_generation_prompt=reply, **self._tokens)
        except (jinja2.TemplateError, TypeError) as error:
            raise TokenizerError(f"chat template in {self._where}: {error}") from error

    @cached_property
    def frame(self) -> Frame | None:
        """What stands before and after the message; None if the template does not keep it in one piece."""
        before, mark, after = self.render(_MARK).partition(_MARK)
        if not mark or _MARK in after or self.render(_MARK[::-1]) != before + _MARK[::-1] + after:
            return None
        return Frame(before, after)


def read_chat_template(folder: Path, config: dict[str, Any]) -> ChatTemplate:
    """The template in `folder`: chat_template.jinja, else the entry of tokenizer_config.json."""
    path = folder / "chat_template.jinja"
    source: Any = path.read_text("utf-8") if path.is_file() else config.get("chat_template")
    if isinstance(source, list):
        source = {entry.get("name"): entry.get("template") for entry in source}.get("default")
    if not isinstance(source, str) or not source:
        raise TokenizerError(f"no chat template in {folder}; the tasks need an instruction-tuned model")
    return ChatTemplate(source, _special_tokens(config), str(folder))


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    tokens = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value = config.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            tokens[name] = value
    return tokens


def _environment() -> ImmutableSandboxedEnvironment:
    extensions: list[type[Extension] | str] = ["jinja2.ext.loopcontrols", _Generation]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.globals["raise_exception"] = _raise
    environment.filters["tojson"] = _to_json()
    return environment


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json() -> Callable[..., str]:
    def dump(value: Any, indent: int | None = None, **_: Any) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    return dump
