"""TOVA, Token Omission Via Attention ("Transformers are Multi-State RNNs", arXiv 2401.06104).

A decode method with a memory. After the prompt, the token_capacity entries stay that the prompt's last row attends to
most; each generated token then joins the cache, and while there are more than token_capacity, the entry leaves that
this token attends to least. Attention weights are those over the entries still there, averaged over all query heads of
the layer, so that all heads keep the same tokens (the paper's layer-wise policy). A dropped token never comes back.

Choices where an implementation must make one:
- The prompt is computed densely and reduced once, by its last row, as the authors' own cache does.
- A step reads before it drops: token_capacity entries and its own. Nothing is forced to stay, the newest neither.
- Keys keep their true positions. Equal weights: the lower position stays.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekernels.choosing import Place, keep_tokens
from sparsekernels.eviction import Tova
from sparsekernels.ranking import top_mask
from sparsekernels.selection import Selection

KEPT = "kept"


def select(q: Tensor, k: Tensor, method: Tova, place: Place) -> Selection:
    """What the last row of q [T, Hq, D] reads of k [L, Hkv, D]; notes in the state what stays after it."""
    length = k.shape[0]
    before = place.state.get(KEPT)
    if before is None:  # the prompt's last row, over the whole prompt
        present = torch.arange(length, device=k.device)
    else:
        present = torch.cat([before, torch.arange(length - 1, length, device=k.device)])
    weights = mean_weights(q[-1:], k[present], place)
    place.state[KEPT] = present[top_mask(weights, method.token_capacity)]
    mask = torch.zeros(k.shape[1], length, dtype=torch.bool, device=k.device)
    mask[:, present] = True
    return keep_tokens(mask, length)


def mean_weights(q: Tensor, k: Tensor, place: Place) -> Tensor:
    """Attention weights [N] of one row q [1, Hq, D] over k [N, Hkv, D], the mean over all query heads of the layer."""
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    grouped = q[0].to(wide).view(k.shape[1], -1, q.shape[2])
    scores = torch.einsum("hgd,nhd->hgn", grouped, k.to(wide)) * place.scale
    return place.all_heads(scores.softmax(-1).mean(1)).mean(0)
