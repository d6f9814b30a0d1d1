"""The reference executor: the definition of attention over a selection, in torch, on any device.

Computes in float32 (float64 stays float64) and rounds once at the end.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsekernels.kvcache import KeyValues
from sparsekernels.selection import Selection


class Attended(NamedTuple):
    """Output rows and the log-sum-exp of their scaled scores."""

    out: Tensor
    """[T, Hq, D], dtype of the queries; zero for a row that reads nothing."""
    lse: Tensor
    """float32 (or 64) [T, Hq], natural logarithm; −inf for a row that reads nothing."""


def attend_prefill(q: Tensor, kv: KeyValues, selection: Selection, scale: float | None = None) -> Attended:
    """Attention of packed queries q [T, Hq, D] over the selected keys, causal. Lists per query head or per KV head."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    out = torch.zeros(q.shape, dtype=wide, device=q.device)
    lse = torch.full(q.shape[:2], -float("inf"), dtype=wide, device=q.device)
    ids, valid = selection.token_ids()
    rows = selection.rows
    cached: tuple[int, Tensor, Tensor] | None = None
    for r in range(ids.shape[0]):
        sequence, count = int(rows.sequence[r]), int(rows.count[r])
        if count == 0:
            continue
        if cached is None or cached[0] != sequence:
            last = int(rows.end[rows.sequence == sequence].max())
            cached = (sequence, *kv.gather(sequence, last))
        start = int(rows.query_start[r])
        width = int(valid[r].sum(-1).max())
        out[start : start + count], lse[start : start + count] = _attend_block(
            q[start : start + count].to(wide), cached[1], cached[2],
            ids[r, :, :width], valid[r, :, :width], int(rows.position[r]), scale,
        )  # fmt: skip
    return Attended(out.to(q.dtype), lse)


def _attend_block(
    q: Tensor, k: Tensor, v: Tensor, ids: Tensor, valid: Tensor, position: int, scale: float
) -> tuple[Tensor, Tensor]:
    """One row block: q [n, Hq, D], k and v [L, Hkv, D], ids and valid [H, W] → [n, Hq, D], [n, Hq]."""
    heads, group = q.shape[1], q.shape[1] // k.shape[1]
    per_head = heads // ids.shape[0]
    ids, valid = ids.repeat_interleave(per_head, 0), valid.repeat_interleave(per_head, 0)
    ids = torch.where(valid, ids, 0)
    kv_head = (torch.arange(heads, device=q.device) // group)[:, None]
    keys = k[ids, kv_head].to(q.dtype)
    # A weight of zero does not silence a NaN in memory that was never written.
    values = v[ids, kv_head].to(q.dtype).masked_fill(~valid[..., None], 0)
    row = position + torch.arange(q.shape[0], device=q.device)
    visible = valid[:, None] & (ids[:, None] <= row[:, None])
    scores = (q.transpose(0, 1) @ keys.transpose(1, 2) * scale).masked_fill(~visible, -float("inf"))
    lse = scores.logsumexp(-1)
    weights = (scores - lse.masked_fill(lse.isinf(), 0)[..., None]).exp()
    return (weights @ values).transpose(0, 1), lse.transpose(0, 1)


def attend_decode(
    q: Tensor,
    kv: KeyValues,
    tokens: Tensor,
    counts: Tensor,
    scale: float | None = None,
) -> Attended:
    """One query a request over listed cache slots: q [B, Hq, D]; tokens int [B, H, W], physical slots
    (page · cache page size + row), padded behind counts int [B, H]; H is Hkv or Hq."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    if tokens.device.type == "cpu":  # asking for a number costs nothing here, and padding is work
        tokens = tokens[..., : max(1, int(counts.max()))]
    valid = torch.arange(tokens.shape[-1], device=q.device) < counts[..., None]
    slot = torch.where(valid, tokens.long(), tokens[..., :1].long())
    head = torch.arange(tokens.shape[1], device=q.device) // (tokens.shape[1] // kv.num_kv_heads)
    page, row = slot // kv.page_size, slot % kv.page_size
    keys, values = (part[page, row, head[:, None]].to(wide) for part in (kv.keys, kv.values))
    # Query heads that share a list share its keys: [B, H, group, D].
    grouped = q.to(wide).view(q.shape[0], tokens.shape[1], -1, q.shape[2])
    scores = (grouped @ keys.transpose(2, 3)).mul_(scale).masked_fill_(~valid[:, :, None], -float("inf"))
    lse = scores.logsumexp(-1, keepdim=True)
    out = scores.sub_(lse.masked_fill(lse.isinf(), 0)).exp_() @ values
    # Where nothing is read, memory that was never written may have been gathered: a weight of zero silences no NaN.
    out = out.masked_fill((counts == 0)[..., None, None], 0)
    return Attended(out.view(q.shape).to(q.dtype), lse.view(q.shape[:2]))
