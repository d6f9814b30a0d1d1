"""A Selection says which KV pages each block of query rows reads: the one form that every method speaks.

Sizes in the names below: R row blocks (over all sequences), H heads (query heads, or KV heads when the
heads of a group share a list), W widest list, S sequences.

Rules, checked by `Selection.validate`:
- a list names pages by their logical number in the sequence (page p is tokens p·page_size … (p+1)·page_size − 1);
- it is ascending without duplicates, and padded behind `counts`;
- its tokens end with the positions of its own query rows (the diagonal comes last), so that a causal mask aligned to
  the bottom right corner of the compacted tokens is exactly the true one;
- a row block with no query row has an empty list, and its output is zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

MASK_CAP = 1 << 28
"""Largest dense mask that `Selection.dense_mask` builds, elements; masks are for tests."""


class SelectionError(ValueError):
    """A selection that breaks a rule; the text names the row block, the head and the rule."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the R row blocks of a batch lie. All int64 [R], on the device of the queries."""

    sequence: Tensor
    """Which sequence of the batch."""
    query_start: Tensor
    """Index of the first query row in the packed queries [sum of T, Hq, D]."""
    position: Tensor
    """Absolute position of the first query row in its sequence."""
    count: Tensor
    """Query rows in the block, 0 … row_block."""

    @property
    def end(self) -> Tensor:
        """One past the position of the last query row: the causal limit."""
        return self.position + self.count


def rows_of_sequence(num_queries: int, num_keys: int, row_block: int, *, device: torch.device | str = "cpu") -> Rows:
    """Row blocks of the last `num_queries` positions of a sequence of `num_keys` tokens.

    Blocks lie at absolute multiples of row_block, so the first and the last may be partial.
    """
    if row_block < 1:
        raise SelectionError(f"row_block is {row_block}; it must be at least 1")
    if not 0 <= num_queries <= num_keys:
        raise SelectionError(f"{num_queries} query rows do not fit in a sequence of {num_keys} tokens")
    first = num_keys - num_queries
    block = torch.arange(first // row_block, -(-num_keys // row_block), device=device)
    start = (block * row_block).clamp(min=first)
    stop = ((block + 1) * row_block).clamp(max=num_keys)
    if num_queries == 0:
        start = stop = start[:0]
    return Rows(torch.zeros_like(start), start - first, start, stop - start)


@dataclass(frozen=True, slots=True)
class Selection:
    """Ragged page lists per (row block, head); see the rules at the top of the module."""

    rows: Rows
    page_size: int
    """Tokens in a page; 1 = single tokens."""
    row_block: int
    """Query rows that share a list; 1 in decode."""
    pages: Tensor
    """int32 [R, H, W], logical page numbers, padded behind `counts` with anything."""
    counts: Tensor
    """int32 [R, H], pages in the list."""

    @property
    def num_heads(self) -> int:
        return int(self.pages.shape[1])

    @property
    def lengths(self) -> Tensor:
        """int32 [R, H]: valid tokens in each list; the last page is cut at the causal limit."""
        end = self.rows.end[:, None]
        tail = end - (end - 1) // self.page_size * self.page_size
        tokens = (self.counts - 1) * self.page_size + tail
        return torch.where(self.counts > 0, tokens, 0).to(torch.int32)

    def computed_pairs(self) -> Tensor:
        """int64 [H]: query-key pairs that an executor of this selection computes under the causal mask."""
        rows = self.rows.count[:, None]
        lengths = self.lengths.to(torch.int64)
        return (rows * (lengths - rows) + rows * (rows + 1) // 2).sum(0)

    def allowed_pairs(self) -> Tensor:
        """int64 scalar: query-key pairs that the causal mask allows, per head."""
        rows = self.rows.count
        return (rows * self.rows.position + rows * (rows + 1) // 2).sum()

    def density(self) -> Tensor:
        """float64 scalar on the device: share of the causally allowed pairs that are computed, over all heads."""
        allowed = self.allowed_pairs().to(torch.float64) * self.num_heads
        return self.computed_pairs().sum().to(torch.float64) / allowed

    def tile_pairs(self, tile_rows: int = 128, tile_columns: int = 128) -> Tensor:
        """int64 [H]: pairs in the tiles that a tiled kernel runs (whole tiles, the diagonal's other half included)."""
        rows = -(-self.rows.count[:, None] // tile_rows) * tile_rows
        columns = -(-self.lengths.to(torch.int64) // tile_columns) * tile_columns
        return (rows * columns).sum(0)

    def token_ids(self) -> tuple[Tensor, Tensor]:
        """Positions [R, H, W·page_size] (int64) and whether each is valid (bool)."""
        inside = torch.arange(self.page_size, device=self.pages.device)
        ids = (self.pages.to(torch.int64)[..., None] * self.page_size + inside).flatten(-2)
        valid = torch.arange(ids.shape[-1], device=ids.device) < self.lengths[..., None]
        return ids, valid

    def dense_mask(self, num_queries: int, num_keys: int) -> Tensor:
        """bool [num_queries, H, num_keys]: True where a pair is computed. For tests; num_keys is the longest sequence.

        Raises SelectionError beyond MASK_CAP elements.
        """
        if num_queries * num_keys * self.num_heads > MASK_CAP:
            raise SelectionError(f"a dense mask of {num_queries} × {self.num_heads} × {num_keys} is over {MASK_CAP}")
        mask = torch.zeros(num_queries, self.num_heads, num_keys, dtype=torch.bool, device=self.pages.device)
        ids, valid = self.token_ids()
        columns = torch.zeros(*ids.shape[:2], num_keys + 1, dtype=torch.bool, device=ids.device)
        columns.scatter_(2, torch.where(valid, ids, num_keys), True)
        key = torch.arange(num_keys, device=ids.device)
        for r in range(ids.shape[0]):
            start, count = int(self.rows.query_start[r]), int(self.rows.count[r])
            position = int(self.rows.position[r]) + torch.arange(count, device=ids.device)
            mask[start : start + count] = columns[r, :, :num_keys] & (key <= position[:, None])[:, None]
        return mask

    def validate(self, key_lengths: list[int]) -> None:
        """Raise SelectionError at the first broken rule. Synchronises with the device: for tests and debugging."""
        ids, counts = self.pages.cpu().to(torch.int64), self.counts.cpu().to(torch.int64)
        if ids.dim() != 3 or ids.shape[:2] != counts.shape or len(ids) != len(self.rows.count):
            shapes = f"pages {tuple(ids.shape)} and counts {tuple(counts.shape)}"
            raise SelectionError(f"{shapes} are no lists of {len(self.rows.count)} row blocks")
        foreign = (self.rows.sequence < 0) | (self.rows.sequence >= len(key_lengths)) | (self.rows.position < 0)
        if bool(foreign.any()):
            raise SelectionError(f"row block {int(foreign.nonzero()[0])} lies in none of {len(key_lengths)} sequences")
        if bool((self.rows.count > self.row_block).any()):
            wide = int((self.rows.count > self.row_block).nonzero()[0])
            raise SelectionError(f"row block {wide} has {int(self.rows.count[wide])} rows of at most {self.row_block}")
        limits = torch.tensor(key_lengths)[self.rows.sequence.cpu()]
        end = self.rows.end.cpu()
        if bool((end > limits).any()):
            raise SelectionError(f"row block {int((end > limits).nonzero()[0])} lies beyond its sequence")
        for r in range(ids.shape[0]):
            for h in range(ids.shape[1]):
                self._validate_list(r, h, ids[r, h, : counts[r, h]], int(counts[r, h]))

    def _validate_list(self, r: int, h: int, pages: Tensor, count: int) -> None:
        where = f"row block {r}, head {h}"
        position, rows = int(self.rows.position[r]), int(self.rows.count[r])
        if rows == 0:
            if count:
                raise SelectionError(f"{where}: no query row, but {count} pages")
            return
        first, last = position // self.page_size, (position + rows - 1) // self.page_size
        if not 0 < count <= self.pages.shape[2]:
            raise SelectionError(f"{where}: {count} pages in a table of width {self.pages.shape[2]}")
        if bool((pages[1:] <= pages[:-1]).any()):
            raise SelectionError(f"{where}: pages are not ascending or repeat: {pages.tolist()[:20]}")
        if int(pages[0]) < 0 or int(pages[-1]) > last:
            raise SelectionError(f"{where}: page {pages[0]} … {pages[-1]} outside 0 … {last}")
        diagonal = torch.arange(first, last + 1)
        if count < len(diagonal) or not torch.equal(pages[-len(diagonal) :], diagonal):
            raise SelectionError(f"{where}: the list does not end with its own rows' pages {first} … {last}")

    def coarsen(self, page_size: int) -> Selection:
        """The smallest selection in pages of `page_size` tokens that covers this one (a superset of its pairs).

        `page_size` must be a multiple of this selection's. Shapes stay bounded by W; no host synchronisation.
        """
        if page_size < 1 or page_size % self.page_size:
            raise SelectionError(f"pages of {self.page_size} do not fit in pages of {page_size}")
        wide = self.pages.to(torch.int64) // (page_size // self.page_size)
        index = torch.arange(wide.shape[-1], device=wide.device)
        valid = index < self.counts[..., None]
        new = valid & torch.cat([torch.ones_like(wide[..., :1], dtype=torch.bool), wide[..., 1:] != wide[..., :-1]], -1)
        slot = torch.where(new, new.cumsum(-1) - 1, wide.shape[-1])
        pages = torch.zeros(*wide.shape[:2], wide.shape[2] + 1, dtype=torch.int32, device=wide.device)
        pages.scatter_(2, slot, wide.to(torch.int32))
        return replace(self, page_size=page_size, pages=pages[..., :-1], counts=new.sum(-1).to(torch.int32))


def from_page_mask(rows: Rows, mask: Tensor, *, page_size: int, row_block: int, width: int | None = None) -> Selection:
    """Selection from a bool mask [R, H, pages]; `width` bounds the lists (default: all pages, no synchronisation)."""
    counts = mask.sum(-1).to(torch.int32)
    order = torch.sort((~mask).to(torch.uint8), dim=-1, stable=True).indices
    pages = order[..., : mask.shape[-1] if width is None else width].to(torch.int32)
    return Selection(rows, page_size, row_block, pages.contiguous(), counts)


def full_selection(
    num_queries: int, num_keys: int, num_heads: int, *, page_size: int, row_block: int, device: torch.device | str
) -> Selection:
    """Everything that the causal mask allows: the dense method as a selection."""
    rows = rows_of_sequence(num_queries, num_keys, row_block, device=device)
    counts = -(-rows.end // page_size)[:, None].expand(-1, num_heads)
    pages = torch.arange(-(-num_keys // page_size), dtype=torch.int32, device=device)
    return Selection(
        rows, page_size, row_block, pages.expand(len(rows.count), num_heads, -1).contiguous(), counts.to(torch.int32)
    )


def concatenate(selections: list[Selection], query_lengths: list[int]) -> Selection:
    """One selection over several sequences whose queries are packed one after the other."""
    if len({(s.page_size, s.row_block, s.num_heads) for s in selections}) != 1:
        raise SelectionError("selections of different page sizes, row blocks or heads cannot be joined")
    width = max(s.pages.shape[2] for s in selections)
    start, parts = 0, []
    for i, (s, length) in enumerate(zip(selections, query_lengths, strict=True)):
        rows = Rows(s.rows.sequence + i, s.rows.query_start + start, s.rows.position, s.rows.count)
        pages = torch.nn.functional.pad(s.pages, (0, width - s.pages.shape[2]))
        parts.append((rows, pages, s.counts))
        start += length
    rows = Rows(
        *(torch.cat([getattr(p[0], f) for p in parts]) for f in ("sequence", "query_start", "position", "count"))
    )
    first = selections[0]
    return Selection(
        rows, first.page_size, first.row_block, torch.cat([p[1] for p in parts]), torch.cat([p[2] for p in parts])
    )
