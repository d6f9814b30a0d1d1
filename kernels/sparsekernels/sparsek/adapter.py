"""The adapter file: the scorers of one model as a small safetensors file that names the model it was trained on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparsekernels.sparsek.scorer import Source, features, score

FORMAT = "sparsek-adapter"
VERSION = 1
_FINGERPRINTED = ("k_proj.weight", "v_proj.weight", "qkv_proj.weight")


class AdapterError(ValueError):
    """A file that is no adapter, or one of another model; the text names the file and the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """Scorers of all layers and KV heads of a model (or of one tensor-parallel rank)."""

    weight: Tensor
    """float32 [layers, kv_heads, features]."""
    slope: Tensor
    """float32 [layers, kv_heads], score units a position, at least 0."""
    source: Source
    head_dim: int
    model_fingerprint: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """How it was trained (data, steps, seed, budget); recorded, never interpreted."""

    @property
    def num_kv_heads(self) -> int:
        return int(self.weight.shape[1])

    def score(self, layer: int, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
        """u [..., kv_heads, n] of `keys`, `values` [..., kv_heads, n, head_dim] at `positions` [n]."""
        found = features(keys, values, self.source)
        weight, slope = self.weight[layer].to(found.device), self.slope[layer].to(found.device)
        return score(found, weight, slope, positions.to(found.device))

    def for_rank(self, rank: int, size: int) -> Adapter:
        """The KV heads of one tensor-parallel rank; a head is replicated where ranks outnumber heads."""
        heads = self.num_kv_heads
        if heads % size and size % heads:
            raise AdapterError(f"{heads} KV heads cannot be split over {size} ranks")
        count = max(1, heads // size)
        first = rank * heads // size
        part = slice(first, first + count)
        return Adapter(
            weight=self.weight[:, part].contiguous(),
            slope=self.slope[:, part].contiguous(),
            source=self.source,
            head_dim=self.head_dim,
            model_fingerprint=self.model_fingerprint,
            facts=self.facts,
        )


def save_adapter(adapter: Adapter, path: Path) -> None:
    """Writes the file whole or not at all."""
    header = {
        "format": FORMAT,
        "version": str(VERSION),
        "source": str(adapter.source),
        "head_dim": str(adapter.head_dim),
        "model_fingerprint": adapter.model_fingerprint,
        "facts": json.dumps(dict(adapter.facts), sort_keys=True),
    }
    part = path.with_suffix(path.suffix + ".part")
    tensors = {"weight": adapter.weight.float().contiguous().cpu(), "slope": adapter.slope.float().contiguous().cpu()}
    save_file(tensors, str(part), metadata=header)
    os.replace(part, path)


def load_adapter(path: Path, *, model_fingerprint: str | None = None) -> Adapter:
    """Reads an adapter; with `model_fingerprint`, refuses one that was trained on another model."""
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise AdapterError(f"{path} is not a SparseK adapter")
            if header["version"] != str(VERSION):
                raise AdapterError(f"{path} has adapter version {header['version']}; this code reads {VERSION}")
            weight, slope = file.get_tensor("weight"), file.get_tensor("slope")
    except (OSError, SafetensorError, KeyError) as error:
        raise AdapterError(f"{path}: {error}") from None
    if model_fingerprint is not None and header["model_fingerprint"] != model_fingerprint:
        raise AdapterError(
            f"{path} was trained on model {header['model_fingerprint'][:12]}, not on {model_fingerprint[:12]}"
        )
    found = Adapter(
        weight=weight,
        slope=slope,
        source=Source(header["source"]),
        head_dim=int(header["head_dim"]),
        model_fingerprint=header["model_fingerprint"],
        facts=json.loads(header["facts"]),
    )
    _check(found, path)
    return found


def _check(adapter: Adapter, path: Path) -> None:
    wanted = adapter.source.num_features(adapter.head_dim)
    if adapter.weight.dim() != 3 or adapter.weight.shape[2] != wanted:
        raise AdapterError(f"{path}: weight is {tuple(adapter.weight.shape)}; its last size must be {wanted}")
    if adapter.slope.shape != adapter.weight.shape[:2]:
        raise AdapterError(f"{path}: slope is {tuple(adapter.slope.shape)}; weight has {tuple(adapter.weight.shape)}")
    if not bool(torch.isfinite(adapter.weight).all() and torch.isfinite(adapter.slope).all()):
        raise AdapterError(f"{path} holds numbers that are not finite")


def fingerprint_model(folder: Path) -> str:
    """Identity of the model in a folder of safetensors files; see `fingerprint_tensors`."""
    rows: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (the file is no dictionary)
                if name.endswith(_FINGERPRINTED):
                    rows[name] = file.get_slice(name)[:1]
    if not rows:
        raise AdapterError(f"{folder} holds no safetensors file with key and value projections")
    return fingerprint_tensors(rows)


def fingerprint_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hash of the first row of every key and value projection, rounded to bfloat16: what scores depend on.

    The same for a model stored in float32 and in bfloat16, in one file or in many.
    """
    digest = hashlib.sha256()
    for name in sorted(n for n in tensors if n.endswith(_FINGERPRINTED)):
        row = tensors[name][:1].detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(name.encode() + row.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
