"""StreamingLLM: attention sinks and recent tokens ("Efficient Streaming Language Models", arXiv 2309.17453).

A decode method without a memory. Choices where an implementation must make one:
- It acts on generated tokens; the prompt is computed densely. Combine it with a prefill method to change that.
- Keys keep their true positions. The paper numbers positions inside the cache, so that a stream may grow beyond the
  model's context; here a sequence ends with the context, and distances between recent tokens are the same either way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekernels.choosing import Place, keep_tokens
from sparsekernels.eviction import StreamingLLM
from sparsekernels.selection import Selection


def select(q: Tensor, k: Tensor, method: StreamingLLM, place: Place) -> Selection:
    """What the last row of q [T, Hq, D] reads of k [L, Hkv, D]: the same for all heads."""
    length = k.shape[0]
    token = torch.arange(length, device=k.device)
    recent = method.token_budget - method.sink_size
    read = (token < method.sink_size) | (token >= length - recent)
    return keep_tokens(read.expand(k.shape[1], -1), length)
