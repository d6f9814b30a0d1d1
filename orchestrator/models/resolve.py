"""From a model's name in a spec to its folder and its facts."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import ModelError
from orchestrator.models.catalog import CATALOG
from orchestrator.models.identity import folder_fingerprint
from orchestrator.models.pull import is_pulled
from orchestrator.paths import models_folder

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """What the grid needs to know of a model before any engine starts."""

    source: str
    """Short name, folder or hub id, as written in the spec."""
    folder: Path | None
    """None while the model is not on this machine."""
    fingerprint: str
    """Identity of the weights, equal on every machine."""
    max_context_tokens: int | None
    """From config.json, or from the catalogue; None when unknown here."""
    config: dict[str, Any] | None = None
    """config.json, when the folder is here."""


def describe_model(source: str, revision: str | None = None) -> ModelDescription:
    """Facts about a model without downloading it. Raises ModelError for a path that is no model folder."""
    if source in CATALOG:
        model = CATALOG[source]
        folder = models_folder() / source if is_pulled(model) else None
        return ModelDescription(
            source=source,
            folder=folder,
            fingerprint=model.fingerprint,
            max_context_tokens=model.max_context_tokens,
            config=_config(folder) if folder else None,
        )
    path = named_folder(source)
    if path is not None:
        return _describe_folder(source, path)
    if is_hub_id(source):
        return _describe_hub_model(source, revision or "main")
    known = ", ".join(sorted(CATALOG))
    raise ModelError(f"model {source!r} is no short name ({known}), no folder and no hub id (ORGANISATION/NAME)")


def resolve_model_folder(source: str, revision: str | None = None, download: bool = True) -> Path:
    """The folder of a model, downloading a hub model if needed. Raises ModelError when it cannot be had."""
    found = describe_model(source, revision)
    if found.folder is not None:
        return found.folder
    if source in CATALOG:
        raise ModelError(f"model {source} is not here yet; get it with: frontier models pull {source}")
    if not download:
        raise ModelError(f"model {source} is not on this machine")
    return _download(source, revision or "main")


def is_hub_id(source: str) -> bool:
    """Whether `source` has the form ORGANISATION/NAME of a model hub."""
    return HUB_ID.fullmatch(source) is not None


def named_folder(source: str) -> Path | None:
    """The folder that `source` names, if it names one that can be looked at."""
    try:
        path = Path(source).expanduser()
        return path if path.is_dir() else None
    except (OSError, ValueError, RuntimeError):  # too long, a NUL character, the home of a user who is not here
        return None


def _describe_folder(source: str, path: Path) -> ModelDescription:
    config = _config(path)
    return ModelDescription(
        source=source,
        folder=path.absolute(),
        fingerprint=folder_fingerprint(path),
        max_context_tokens=context_tokens(config),
        config=config,
    )


def _describe_hub_model(source: str, revision: str) -> ModelDescription:
    folder = _cached(source, revision)
    config = _config(folder) if folder else None
    return ModelDescription(
        source=source,
        folder=folder,
        fingerprint=f"{source}@{folder.name if folder else revision}",
        max_context_tokens=context_tokens(config) if config else None,
        config=config,
    )


def context_tokens(config: dict[str, Any]) -> int | None:
    """The longest context of a config.json, tokens: its positions, or those of its text part (multimodal models)."""
    for part in (config, config.get("text_config") or {}):
        value = part.get("max_position_embeddings")
        if isinstance(value, int):
            return value
    return None


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
    except OSError:
        raise ModelError(f"model folder {folder} has no config.json") from None
    except json.JSONDecodeError as error:
        raise ModelError(f"{folder / 'config.json'}: not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'config.json'}: not a JSON object")
    return config


def _cached(source: str, revision: str) -> Path | None:
    """The snapshot folder if it is in the hub's cache already; never touches the network."""
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(source, revision=revision, local_files_only=True))
    except Exception:
        # Not installed, not cached, or a broken cache: in every case the model is not here.
        return None


def _download(source: str, revision: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ModelError(f"model {source}: install the extra `cpu` or `gpu` to reach the model hub") from None
    try:
        patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except Exception as error:
        # The hub client raises a dozen unrelated classes; each means that the model cannot be had.
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"model {source}@{revision}: cannot download: {first}") from None
