"""The methods' selections as dense masks, in plain loops over NumPy float64, written from the papers' formulas.

Shares no code with `sparsekernels`. Every function returns bool [T, H, L]: True where query row t reads key l. Ties go
to the lower index, as the library states.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def best(scores: list[float], count: int) -> set[int]:
    """Indices of the `count` largest scores, ties to the lower index."""
    return set(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count])


def attention(q: Array, k: Array, window: int) -> Array:
    """softmax of the last min(window, T) rows, [Hq, w, L]."""
    rows, heads, d = q.shape
    length, kv_heads = k.shape[:2]
    w = min(window, rows)
    out = np.zeros((heads, w, length))
    for h in range(heads):
        for r in range(w):
            limit = length - w + r + 1
            scores = k[:limit, h // (heads // kv_heads)] @ q[rows - w + r, h] / math.sqrt(d)
            weights = np.exp(scores - scores.max())
            out[h, r, :limit] = weights / weights.sum()
    return out


def sums(a: Array) -> tuple[list[float], list[float]]:
    """Column sums and diagonal sums of one head's [w, L]."""
    w, length = a.shape
    diagonals = [sum(a[r, length - w + r - o] for r in range(w) if length - w + r - o >= 0) for o in range(length)]
    return [float(a[:, j].sum()) for j in range(length)], [float(x) for x in diagonals]


def forced(scores: list[float], first: int) -> list[float]:
    return [math.inf if i < first else s for i, s in enumerate(scores)]


def pattern_mask(columns: list[set[int]], offsets: list[set[int]], rows: int, length: int, row_block: int) -> Mask:
    """Union coverage: the rows of a block read every key on a kept diagonal of any full block row, and the columns."""
    mask = np.zeros((rows, len(columns), length), dtype=bool)
    for t in range(rows):
        position = length - rows + t
        start = position // row_block * row_block
        end = min(start + row_block, length)
        for h in range(len(columns)):
            keys = set(columns[h])
            for o in offsets[h]:
                keys.update(range(start - o, start - o + row_block))
            for key in keys:
                if 0 <= key <= position and key < end:
                    mask[t, h, key] = True
    return mask


def tile_mask(columns: list[set[int]], offsets: list[set[int]], rows: int, length: int, tile: int) -> Mask:
    """The reference implementation's merging: one pass over the kept offsets, longest first, ranges grown by tiles."""
    mask = np.zeros((rows, len(columns), length), dtype=bool)
    for t in range(rows):
        position = length - rows + t
        end = position // tile * tile + tile
        for h in range(len(columns)):
            keys = set(columns[h])
            ranges: list[list[int]] = []
            for o in sorted(offsets[h], reverse=True):
                if o >= end:
                    continue
                stop = max(end - o, tile)
                if not ranges or stop > ranges[-1][1] + tile:
                    ranges.append([stop - tile, stop])
                elif stop > ranges[-1][1]:
                    ranges[-1][1] += tile
            for low, high in ranges:
                keys.update(range(low, high))
            for key in keys:
                if key <= position:
                    mask[t, h, key] = True
    return mask


def vertical_slash_pattern(
    q: Array, k: Array, *, window: int, verticals: int, slashes: int, sinks: int, local: int
) -> tuple[list[set[int]], list[set[int]]]:
    columns, offsets = [], []
    for a in attention(q, k, window):
        by_column, by_diagonal = sums(a)
        columns.append(best(forced(by_column, sinks), verticals))
        offsets.append(best(forced(by_diagonal, local), slashes))
    return columns, offsets


def flexprefill_pattern(
    q: Array, k: Array, *, window: int, alpha: float, min_budget: int, sinks: int, local: int
) -> tuple[list[set[int]], list[set[int]]]:
    columns, offsets = [], []
    for a in attention(q, k, window):
        by_column, by_diagonal = sums(a)
        sizes = []
        for scores in (by_column, by_diagonal):
            total, count = 0.0, 0
            for share in sorted((s / a.shape[0] for s in scores), reverse=True):
                total += share
                count += total <= alpha
            sizes.append(max(min_budget, 1 + count))
        columns.append(best(forced(by_column, sinks), sizes[0]))
        offsets.append(best(forced(by_diagonal, local), sizes[1]))
    return columns, offsets


def block_sparse_mask(q: Array, k: Array, *, top: int, block: int, row_block: int, sinks: int, local: int) -> Mask:
    rows, heads, _ = q.shape
    length, kv_heads = k.shape[:2]
    mask = np.zeros((rows, heads, length), dtype=bool)
    first = length - rows
    for m in range(first // row_block, -(-length // row_block)):
        start, end = max(first, m * row_block), min(length, (m + 1) * row_block)
        allowed = range(-(-end // block))
        for h in range(heads):
            mean = q[start - first : end - first, h].mean(0)
            scores = []
            for b in allowed:
                score = float(mean @ k[b * block : (b + 1) * block, h // (heads // kv_heads)].mean(0))
                scores.append(math.inf if b < sinks or b >= start // block - local else score)
            for b in best(scores, top):
                for t in range(start - first, end - first):
                    stop = min((b + 1) * block, first + t + 1)
                    mask[t, h, b * block : max(stop, b * block)] = True
    return mask


def snapkv_kept(
    q: Array, k: Array, *, window: int, kernel: int, capacity: int, sinks: int, local: int
) -> list[set[int]]:
    pooled = [_pool(group.mean(0).sum(0), kernel) for group in _groups(q, k, window)]
    return [best(_ends(votes, sinks, local), capacity) for votes in pooled]


def ada_snapkv_kept(
    q: Array, k: Array, *, window: int, kernel: int, capacity: int, sinks: int, local: int, ratio: float
) -> list[set[int]]:
    pooled = [_ends(_pool(group.max((0, 1)), kernel), sinks, local) for group in _groups(q, k, window)]
    return ada_shared(pooled, capacity, max(int(ratio * capacity), sinks + local))


def ada_shared(votes: list[list[float]], capacity: int, floor: int) -> list[set[int]]:
    kept = [best(v, floor) for v in votes]
    rest = [(-v[i], h, i) for h, v in enumerate(votes) for i in range(len(v)) if i not in kept[h]]
    budget = min(capacity, len(votes[0])) * len(votes) - sum(len(s) for s in kept)
    for _, h, i in sorted(rest)[: max(0, budget)]:
        kept[h].add(i)
    return kept


def _groups(q: Array, k: Array, window: int) -> list[Array]:
    a = attention(q, k, window)
    return list(a.reshape(k.shape[1], -1, *a.shape[1:]))


def _pool(votes: Array, kernel: int) -> list[float]:
    half, n = kernel // 2, len(votes)
    return [float(sum(votes[max(0, i - half) : min(n, i + half + 1)]) / kernel) for i in range(n)]


def _ends(votes: list[float], sinks: int, local: int) -> list[float]:
    return [math.inf if i < sinks or i >= len(votes) - local else v for i, v in enumerate(votes)]


def quest_pages(q: Array, k: Array, *, page: int, budget: int, shared: bool) -> list[list[int]]:
    """Pages read by one query q [Hq, D] over keys [L, Hkv, D], for each KV head (shared) or query head."""
    heads, (length, kv_heads, _) = q.shape[0], k.shape
    group, current = heads // kv_heads, (length - 1) // page
    bounds = []
    for h in range(heads):
        row = []
        for p in range(current):
            keys = k[p * page : (p + 1) * page, h // group]
            row.append(float(np.maximum(q[h] * keys.min(0), q[h] * keys.max(0)).sum()))
        bounds.append(row)
    if shared:
        bounds = [
            [sum(bounds[h * group + g][p] for g in range(group)) for p in range(current)] for h in range(kv_heads)
        ]
    return [[*sorted(best(row, budget // page)), current] for row in bounds]


def tova_reads(q: Array, k: Array, prompt: int, capacity: int) -> list[list[int]]:
    """Tokens that each row from `prompt` on reads under TOVA (all heads alike), for q [T, Hq, D] and k [T, Hkv, D]."""
    kept, found = list(range(prompt)), []
    kept = _tova_kept(q[prompt - 1], k, kept, capacity)
    for row in range(prompt, len(q)):
        there = [*kept, row]
        found.append(there)
        kept = _tova_kept(q[row], k, there, capacity)
    return found


def _tova_kept(q: Array, k: Array, there: list[int], capacity: int) -> list[int]:
    weights = np.zeros(len(there))
    for h in range(q.shape[0]):
        scores = np.array([k[token, h // (q.shape[0] // k.shape[1])] @ q[h] for token in there]) / math.sqrt(q.shape[1])
        exponentials = np.exp(scores - scores.max())
        weights += exponentials / exponentials.sum() / q.shape[0]
    return [there[i] for i in sorted(best(list(weights), capacity))]


def streaming_reads(length: int, budget: int, sinks: int) -> list[int]:
    """Tokens that the last of `length` rows reads under StreamingLLM."""
    return [t for t in range(length) if t < sinks or t >= length - (budget - sinks)]


def stride_mask(q: Array, k: Array, step: int, block: int, row_block: int) -> Mask:
    """The tests' method `stride` (`tests.support.foreign_methods`), whole prompt."""
    group = q.shape[1] // k.shape[1]
    mask = np.zeros((len(q), q.shape[1], len(k)), dtype=bool)
    for row in range(len(q)):
        start, end = row // row_block * row_block, min((row // row_block + 1) * row_block, len(k))
        for head in range(q.shape[1]):
            for key in range(row + 1):
                page = key // block
                own = start // block <= page <= (end - 1) // block
                mask[row, head, key] = own or (page + head // group) % step == 0
    return mask


def strongest_kept(q: Array, k: Array, size: int, window: int) -> list[list[int]]:
    """The tests' method `keep_strongest`: tokens that each KV head keeps, the last one always."""
    group, kept = q.shape[1] // k.shape[1], []
    for h in range(k.shape[1]):
        rows = q[-window:, h * group : (h + 1) * group].reshape(-1, q.shape[2])
        scores = [float((rows @ key).sum()) for key in k[:, h]]
        kept.append(sorted(best(scores, size + h) | {len(k) - 1}))
    return kept
