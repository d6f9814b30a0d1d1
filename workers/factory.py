"""Engines by name, so that a pickled order can choose one. An engine's module is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from workers.engine import Engine, EngineSpec
from workers.failures import EngineStartError

_ENGINES = {
    "vllm": "workers.vllm_engine:VllmEngine",
    "fake": "workers.fake_engine:FakeEngine",
}


def engine_names() -> tuple[str, ...]:
    return tuple(_ENGINES)


def load_engine(name: str, spec: EngineSpec) -> Engine:
    """The engine `name`, loaded as specified. Raises EngineStartError (or another EngineError) when it cannot be."""
    if name not in _ENGINES:
        raise EngineStartError(f"unknown engine {name!r}; known engines: {', '.join(_ENGINES)}")
    module, _, class_name = _ENGINES[name].partition(":")
    return cast(Engine, getattr(import_module(module), class_name)(spec))
