"""Methods that came through the door (`sparsekernels.door`) in the engine: their one function, called where it acts.

A decode method's function is called request by request over its gathered keys, so a step costs a copy of the cache
it looks at: right for any method, and slower than the built-in ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from sparsekernels.choosing import Place, choose, chosen_tokens, is_chosen, load_select
from sparsekernels.decode import KeptSlots, with_generated
from sparsekernels.kvcache import KeyValues
from sparsekernels.methods.snapkv import KeptTokens
from sparsekernels.parameters import MethodChoice
from torch import Tensor

from workers.vllm_plugin.parallel import Ranks
from workers.vllm_plugin.requests import RequestState
from workers.vllm_plugin.sparsek import layer_number

if TYPE_CHECKING:
    from workers.vllm_plugin.groups import Group


def chosen_refusal(method: MethodChoice) -> str | None:
    """Why a method's function cannot be called here; None when all can."""
    for one in (method.prefill, method.decode, method.compress):
        if one is None or not is_chosen(one):
            continue
        try:
            load_select(one)
        except Exception as error:  # whatever a stranger's import raises
            return f"{one.name}: its function {one.select} cannot be loaded: {type(error).__name__}: {error}"
    return None


def place_of(request: RequestState, name: str, ranks: Ranks, scale: float) -> Place:
    """Where the layer `name` stands, with the method's memory of the request there."""
    state = request.memory.setdefault(name, {})
    return Place(scale=scale, layer=layer_number(name), state=state, all_heads=lambda x: ranks.gather_votes(x)[0])


def observe(request: RequestState, queries: Tensor, keys: Tensor, place: Place) -> KeptTokens | None:
    """Shows a method the prompt's last rows [w, Hq, D] over its keys [L, Hkv, D]; what compression keeps, else None."""
    method: Any = request.method.observer
    selection = choose(queries, keys, method, place)
    if request.method.compress is None:
        return None
    if selection.num_heads != keys.shape[1]:
        raise ValueError(f"{method.name} keeps {selection.num_heads} lists; a cache has one for each KV head")
    tokens, counts = chosen_tokens(selection)
    return KeptTokens(tokens.to(torch.int32), counts, request.prompt_length)


def decode_slots(
    name: str, group: Group, cache: KeyValues, queries: Tensor, kept: KeptSlots | None, ranks: Ranks, scale: float
) -> tuple[Tensor, Tensor]:
    """Cache slots that each row reads: int32 [B, H, W] padded behind counts int32 [B, H]; notes how many were read."""
    found = []
    whole = None if kept is None else with_generated(
        kept, group.block_table, cache.page_size, group.seq_lens, group.max_generated
    )  # fmt: skip
    for row, span in enumerate(group.spans):
        place = place_of(span.request, name, ranks, scale)
        method: Any = span.request.method.decode
        query = queries[row : row + 1]
        if whole is None:
            one = _of_whole_cache(query, cache, row, span.end_position, method, place)
        else:
            one = _of_kept(query, cache, whole[0][row], whole[1][row], method, place)
        span.request.decode.measure(span.first_position, one[1].double().mean())
        found.append(one)
    heads, width = max(len(counts) for _, counts in found), max(slots.shape[1] for slots, _ in found)
    slots = [_wider(slots, heads, width) for slots, _ in found]
    counts = [count.repeat_interleave(heads // len(count)) for _, count in found]
    return torch.stack(slots).to(torch.int32), torch.stack(counts).to(torch.int32)


def _of_whole_cache(
    query: Tensor, cache: KeyValues, row: int, length: int, method: Any, place: Place
) -> tuple[Tensor, Tensor]:
    tokens, counts = chosen_tokens(choose(query, cache.gather(row, length)[0], method, place))
    pages = cache.block_table[row].long()
    return pages[tokens // cache.page_size] * cache.page_size + tokens % cache.page_size, counts


def _of_kept(
    query: Tensor, cache: KeyValues, slots: Tensor, counts: Tensor, method: Any, place: Place
) -> tuple[Tensor, Tensor]:
    """Heads differ in what they kept, so each is asked for alone; slots [Hkv, N] padded behind counts [Hkv]."""
    group = query.shape[1] // len(slots)
    found = []
    for head, own in enumerate(slots):
        entries = own[: int(counts[head])]
        keys = cache.keys[entries // cache.page_size, entries % cache.page_size, head][:, None]
        state = place.state.setdefault(f"head {head}", {})
        alone = Place(scale=place.scale, layer=place.layer, state=state)
        tokens, count = chosen_tokens(choose(query[:, head * group : (head + 1) * group], keys, method, alone))
        found.append((entries[tokens], count))
    width = max(entries.shape[1] for entries, _ in found)
    return torch.cat([_wider(entries, len(entries), width) for entries, _ in found]), torch.cat([c for _, c in found])


def _wider(slots: Tensor, heads: int, width: int) -> Tensor:
    repeated = slots.repeat_interleave(heads // len(slots), 0)
    return torch.nn.functional.pad(repeated, (0, width - slots.shape[1]))
