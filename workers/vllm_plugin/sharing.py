"""Which requests share cached keys and values, and how much of them. Plain Python.

Keys and values of prompt rows follow from the prompt and its prefill method alone, whatever comes after. So requests of
one `cache_group` share a prefill, and each decodes in its own way:
- dense prefill: any common prefix, since a row depends on nothing behind it;
- vertical-slash, FlexPrefill, block-sparse: the same whole prompt under the same parameters only, since what is
  selected depends on the prompt's end. The rows left to compute must find the selection of the whole prompt: they are
  whole row blocks, and hold the last `window` rows, from which columns and diagonals are estimated;
- any other prefill method: nothing.
Rows behind the prompt enter the cache only when all rows are dense.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence

from sparsekernels.parameters import BlockSparse, FlexPrefill, MethodChoice, VerticalSlash

LARGEST_ROW_BLOCK = 128
"""Rows that share a list in vertical-slash and FlexPrefill: 64 on the reference executor, 128 on the others."""


def cache_salt(group: str | None, request_id: str, method: MethodChoice, prompt_token_ids: Sequence[int]) -> str:
    """Requests with equal salts may share cached keys and values; nobody shares without a group."""
    if group is None or not may_share(method):
        return f"request {request_id}"
    if method.prefill is None:
        return f"group {group}"
    prompt = hashlib.sha256(array("q", prompt_token_ids).tobytes()).hexdigest()[:32]
    return f"group {group} {json.dumps(method.to_wire()['prefill'], sort_keys=True)} {prompt}"


def may_share(method: MethodChoice) -> bool:
    """Whether a request of this method may read what another one left."""
    return method.prefill is None or isinstance(method.prefill, VerticalSlash | FlexPrefill | BlockSparse)


def longest_hit(method: MethodChoice, prompt_length: int) -> int | None:
    """Most prompt tokens that a request may take from the cache; None: any number."""
    parts = (method.prefill, method.observer)
    windows = [int(part.window) for part in parts if part is not None and hasattr(part, "window")]
    if method.prefill is None and not windows:
        return None
    return max(0, prompt_length - max(windows, default=1))


def hit_step(method: MethodChoice) -> int:
    """A hit must be a multiple of this many tokens."""
    if method.prefill is None:
        return 1
    return method.prefill.rows if isinstance(method.prefill, BlockSparse) else LARGEST_ROW_BLOCK


def cacheable_tokens(method: MethodChoice, prompt_length: int, num_computed: int) -> int:
    """How many leading tokens of a request may enter the cache."""
    return num_computed if method.is_dense else min(num_computed, prompt_length)
