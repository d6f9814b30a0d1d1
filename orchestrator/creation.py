"""From a campaign file, or a mapping of the same form, to a campaign in the store."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from math import isfinite, isnan
from pathlib import Path
from typing import Any

from orchestrator.domain.grid import Cell, expand
from orchestrator.domain.ordering import TARGET_SECONDS
from orchestrator.domain.spec import CampaignSpec
from orchestrator.domain.spec_file import load_cells, parse_spec
from orchestrator.errors import SpecError
from orchestrator.models import describe_model, resolve_model_folder
from orchestrator.store.campaigns import NewCampaign, Settings, create_campaign
from orchestrator.store.session import Store

DISTRIBUTION = "sparse-frontier-campaigns"


def prepare(path: Path) -> tuple[CampaignSpec, list[Cell]]:
    """The spec in a file and its cells, with every model on this machine. Raises SpecError or ModelError."""
    # The grid first: a bad length is told before gigabytes are fetched.
    spec, cells = load_cells(path, describe_model)
    return (spec, cells) if not _fetch_models(spec) else load_cells(path, describe_model)


def prepare_spec(spec: CampaignSpec) -> list[Cell]:
    """The cells of a spec, with every model on this machine. Raises SpecError or ModelError."""
    cells = expand(spec, describe_model)
    return cells if not _fetch_models(spec) else expand(spec, describe_model)


def _fetch_models(spec: CampaignSpec) -> bool:
    """Whether a model was fetched: then its facts are known better than before. Raises ModelError."""
    absent = [model for model in spec.models if describe_model(model.source, model.revision).folder is None]
    for model in absent:
        resolve_model_folder(model.source, model.revision)
    return bool(absent)


def spec_from(values: Mapping[str, Any]) -> CampaignSpec:
    """The spec that a mapping of a campaign file's form means. Raises SpecError naming the first wrong value."""
    try:
        # The mapping meets the same reader as a file, and the same messages.
        return parse_spec(_as_yaml(dict(values)))
    except SpecError as error:
        raise SpecError(error.message, path="spec") from None
    except TypeError as error:
        raise SpecError(f"not data of a campaign file: {error}", path="spec") from None


def _as_yaml(value: Any) -> str:
    """`value` as YAML: JSON, whose keys may be whole numbers, since budgets are given by length. Raises TypeError."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_as_yaml(key)}: {_as_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_as_yaml, value)) + "]"
    if isinstance(value, float) and not isfinite(value):
        return ".nan" if isnan(value) else ".inf" if value > 0 else "-.inf"
    return json.dumps(value)


def create(store: Store, spec: CampaignSpec, cells: Sequence[Cell], engine: str) -> int:
    """Write the campaign into the store, or find it there. Raises StoreError when the name has another spec."""
    new = NewCampaign(
        name=spec.name,
        cells=cells,
        spec=spec.model_dump(mode="json"),
        engine_name=engine,
        code_revision=code_revision(),
        settings=shard_settings(spec),
    )
    return create_campaign(store, new)


def shard_settings(spec: CampaignSpec) -> Settings:
    """Shards of the size that the spec names, else by their predicted time."""
    if spec.shard_samples:
        return Settings(samples_per_shard=spec.shard_samples, paired=spec.pair_methods)
    return Settings(target_seconds=TARGET_SECONDS, paired=spec.pair_methods)


def code_revision() -> str:
    """The version, with the commit when this is a git checkout; stored with the campaign."""
    folder = Path(__file__).parents[1]
    try:
        number = version(DISTRIBUTION)
    except PackageNotFoundError:
        number = "not installed"
    if not (folder / ".git").exists():
        return number
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{number}+{done.stdout.strip()}" if done.returncode == 0 else number
