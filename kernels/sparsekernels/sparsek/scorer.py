"""The scoring network: one linear map per layer and KV head, from what the KV cache already holds.

u_j = w · φ_j + slope · j. φ is built from the value v_j (never rotated) and, in the richer form, from
the lengths of the key's rotary pairs, which a rotation leaves unchanged. So scoring needs no hook into
the model's hidden states, works on a cache filled earlier, and every tensor-parallel rank scores its
own KV heads. A constant added to all scores changes nothing, hence no bias.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor


class Source(StrEnum):
    """What a score is computed from."""

    VALUES = "values"
    """v: d features."""
    VALUES_AND_KEY_PAIRS = "values_and_key_pairs"
    """v, and √(k_c² + k_{c+d/2}²) for each rotary pair (c, c + d/2): 1.5·d features."""

    def num_features(self, head_dim: int) -> int:
        return head_dim if self is Source.VALUES else head_dim + head_dim // 2


def features(keys: Tensor, values: Tensor, source: Source) -> Tensor:
    """φ in float32: [..., d] keys and values → [..., num_features]."""
    if source is Source.VALUES:
        return values.float()
    first, second = keys.float().chunk(2, dim=-1)
    return torch.cat((values.float(), (first.square() + second.square()).sqrt()), -1)


def score(features: Tensor, weight: Tensor, slope: Tensor, positions: Tensor) -> Tensor:
    """u [..., H, n] in float32.

    Args:
        features: [..., H, n, F]; weight: [H, F]; slope: [H], score units a position; positions: [n].
    """
    content = (features @ weight.float()[:, :, None]).squeeze(-1)
    return content + slope.float()[:, None] * positions.float()
