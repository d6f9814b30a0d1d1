"""Quest's whole decode step in one CUDA launch: which calls `quest_step.cu` serves, and how it is launched."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from sparsekernels.attend.triton_decode import LOG2E
from sparsekernels.cuda import launch, nvrtc
from sparsekernels.kvcache import KeyValues
from sparsekernels.methods.quest import PageLists

PAGE, HEADS = 16, 8
"""As in the source."""
WARPS = 12
CLUSTERS = (8, 6, 4, 3, 2, 1)
"""Programs that may share a (request, KV head), best first where all of them fit on the device at once."""
MOST_SHARED_BYTES = 227 * 1024
SIGNATURE = "p" * 12 + "l" * 9 + "i" * 5 + "f"
SHARE_OF_CACHE = 0.7
"""Of the L2 cache that chosen pages may take when they are called for before they are read (measured on an H200)."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kind:
    """What the source is compiled for, but for the size of the clusters."""

    head_size: int
    group: int
    kv_heads: int
    ratio: int
    half: bool
    skip_empty: bool


@dataclass(frozen=True, slots=True)
class Step:
    """A compiled step for calls of one shape."""

    function: launch.Function
    cluster: int
    padded_pages: int
    width: int
    shared_bytes: int
    call: bool
    """Whether chosen pages are called into the L2 cache while the rest is still being ranked."""

    def __call__(
        self,
        q: Tensor,
        kv: KeyValues,
        store: Tensor,
        seq_lens: Tensor,
        budgets: Tensor,
        out: Tensor,
        *,
        scale: float,
        new_keys: tuple[Tensor, Tensor] | None = None,
        lists: PageLists | None = None,
    ) -> Tensor:
        """Select and attend into out [B, Hq, D]; the pages chosen go to `lists` (shared, of this width), if given."""
        key, slots = new_keys or (None, None)
        keys, table = kv.keys, kv.block_table
        ratio = keys.shape[1] // PAGE
        pointers = [q, store, keys, kv.values, table, seq_lens, budgets, out, key, slots]
        pointers += [lists.pages, lists.lengths] if lists else [None, None]
        strides = [
            *q.stride()[:2],
            *out.stride()[:2],
            *keys.stride()[:3],
            *(key.stride()[:2] if key is not None else (0, 0)),
        ]
        self.function.launch(
            (q.shape[0] * store.shape[1] * self.cluster, 1, 1), 32 * WARPS,
            [*(0 if p is None else p for p in pointers), *strides, table.stride(0), table.shape[1] * ratio,
             self.padded_pages, self.width, int(self.call), scale * LOG2E],
            cluster=self.cluster, shared_bytes=self.shared_bytes, early=True,
        )  # fmt: skip
        return out


def find_step(
    q: Tensor,
    kv: KeyValues,
    store: Tensor,
    seq_lens: Tensor,
    budgets: Tensor,
    *,
    page_size: int,
    max_budget: int,
    new_keys: tuple[Tensor, Tensor] | None = None,
    skip_empty: bool = False,
) -> Step | None:
    """The step for such a call with lists shared by a KV head's queries, or None where the Triton kernels must serve.

    Served are Hopper GPUs and later with NVRTC at hand; pages of 16; bfloat16 or float16; head sizes 64 and 128; at
    most 8 queries a KV head; as many (request, KV head) pairs as have room on the device at once. Compiles on its first
    call, which must not be during the capture of a CUDA graph.
    """
    batch, heads, head_size = q.shape
    cache_page, kv_heads = kv.keys.shape[1], store.shape[1]
    numbers = [seq_lens, budgets, *([new_keys[1]] if new_keys else [])]
    served = (
        page_size == PAGE
        and cache_page % PAGE == 0
        and head_size in (64, 128)
        and heads // kv_heads <= HEADS
        and q.is_cuda
        and can_run(q.device.index)
        and all(_readable(x, q.dtype) for x in (q, store, kv.keys, kv.values))
        and q.dtype in (torch.bfloat16, torch.float16)
        and kv.keys.stride() == kv.values.stride()
        and store.is_contiguous()
        and all(x.stride(-1) == 1 for x in (*numbers, kv.block_table))
        and all(x.dtype == torch.int32 for x in (seq_lens, budgets, kv.block_table))
        and (new_keys is None or (new_keys[0].dtype == q.dtype and new_keys[1].dtype == torch.int64))
    )
    if not served:
        return None
    ratio = cache_page // PAGE
    kind = Kind(head_size, heads // kv_heads, kv_heads, ratio, q.dtype == torch.float16, skip_empty)
    pages = kv.block_table.shape[1] * ratio
    return _step(kind, batch * kv_heads, -(-pages // 32) * 32, min(max_budget // PAGE + 1, pages), q.device.index)


def _readable(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether rows can be read 16 bytes at a time."""
    return (
        x.dtype == dtype
        and x.stride(-1) == 1
        and x.data_ptr() % 16 == 0
        and all(stride % 8 == 0 for stride in x.stride()[:-1])
    )


@cache
def can_run(device: int) -> bool:
    """Whether there is such a CUDA device that can run the step, and a compiler for it."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (9, 0) and nvrtc.available()


def fixed_bytes(head_size: int, cluster: int) -> int:
    """Bytes of the source's struct Shared."""
    part = head_size * HEADS
    words = 5 * 256 + 2 * cluster * WARPS + 2 * 32 + 1 + 2 * WARPS + 2 * WARPS * HEADS + 2 * cluster * HEADS
    words += cluster * -(-part // cluster) + WARPS * part
    return (head_size // 16 + head_size // 32) * 32 * 16 + (4 * words + 15) // 16 * 16


def defines(kind: Kind, cluster: int) -> dict[str, str | int]:
    """What the source is compiled with."""
    return {
        "D": kind.head_size, "GROUP": kind.group, "KV_HEADS": kind.kv_heads, "CLUSTER": cluster, "RATIO": kind.ratio,
        "HALF": int(kind.half), "SKIP_EMPTY": int(kind.skip_empty), "WARPS": WARPS,
        "SHARED_BYTES": fixed_bytes(kind.head_size, cluster),
    }  # fmt: skip


@cache
def _step(kind: Kind, rows: int, padded_pages: int, width: int, device: int) -> Step | None:
    if rows == 0:
        return None
    try:
        for cluster in CLUSTERS:
            list_bytes = 4 * (-(-width // cluster) + 1)
            shared_bytes = 8 * padded_pages + fixed_bytes(kind.head_size, cluster) + list_bytes
            if shared_bytes <= MOST_SHARED_BYTES and _room(kind, cluster, shared_bytes, device) >= rows:
                chosen = rows * (width - 1) * PAGE * kind.head_size * 4
                call = chosen <= SHARE_OF_CACHE * torch.cuda.get_device_properties(device).L2_cache_size
                return Step(_function(kind, cluster, device), cluster, padded_pages, width, shared_bytes, call)
    except RuntimeError as error:
        logger.warning("Quest's step in one launch is not to be had here, four launches serve: %s", error)
    return None


@cache
def _room(kind: Kind, cluster: int, shared_bytes: int, device: int) -> int:
    """Clusters of this size that have room on the device at once; each compiled size needs the same of it."""
    return _function(kind, 1, device).active_clusters(cluster, 32 * WARPS, shared_bytes)


@cache
def _function(kind: Kind, cluster: int, device: int) -> launch.Function:
    with torch.cuda.device(device):
        cubin = compile_step(kind, cluster, torch.cuda.get_device_capability(device))
        return launch.load(cubin, "quest_step", SIGNATURE, MOST_SHARED_BYTES)


def compile_step(kind: Kind, cluster: int, capability: tuple[int, int]) -> bytes:
    """The cubin for a device of `capability`. Raises CompileError."""
    source = Path(__file__).with_suffix(".cu")
    headers = {path.name: path.read_text() for path in source.parent.glob("*.cuh")}
    return nvrtc.compile_source(
        source.read_text(), name=source.name, defines=defines(kind, cluster), capability=capability, headers=headers
    )
