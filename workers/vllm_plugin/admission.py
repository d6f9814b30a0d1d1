"""What an engine takes in: impossible requests are refused with a reason.

Checked in the caller's process, since an exception in a worker ends the engine.
"""

from __future__ import annotations

from sparsekernels.parameters import MethodChoice, ParameterError, Quest

from workers.engine import EngineSpec, GenerationRequest
from workers.failures import Failure, FailureKind
from workers.vllm_plugin import launch
from workers.vllm_plugin.chosen import chosen_refusal
from workers.vllm_plugin.sparsek import sparsek_refusal


def refusal(request: GenerationRequest, spec: EngineSpec, block_size: int) -> Failure | None:
    """Why the engine cannot take the request; checked here, since an exception in a worker ends the engine."""
    try:
        method = MethodChoice.from_wire(request.method)
    except ParameterError as error:
        return Failure(kind=FailureKind.BAD_SPEC, message=str(error), where="generate")
    if not method.is_dense and not launch.plugin_enabled(spec):
        return Failure(kind=FailureKind.BAD_SPEC, message="a stock engine serves only dense", where="generate")
    if method.prefill is not None and spec.options.get("enable_chunked_prefill"):
        text = f"{method.prefill.name} needs the whole prompt in one step; enable_chunked_prefill is on"
        return Failure(kind=FailureKind.BAD_SPEC, message=text, where="generate")
    if isinstance(method.decode, Quest) and method.compress is None and block_size % method.decode.page_size:
        text = f"quest page_size is {method.decode.page_size}; it must divide the cache's blocks of {block_size} tokens"
        return Failure(kind=FailureKind.BAD_SPEC, message=f"{text} (engine option block_size)", where="generate")
    unfit = sparsek_refusal(method, spec.model) or chosen_refusal(method)
    if unfit is not None:
        return Failure(kind=FailureKind.BAD_SPEC, message=unfit, where="generate")
    length = len(request.prompt_token_ids)
    if length + request.max_tokens > spec.max_model_len:
        text = f"{length} prompt + {request.max_tokens} output tokens exceed max_model_len {spec.max_model_len}"
        return Failure(kind=FailureKind.OVER_LENGTH, message=text, where="generate")
    if length == 0 or request.max_tokens < 1:
        text = f"{length} prompt tokens, max_tokens {request.max_tokens}; both must be at least 1"
        return Failure(kind=FailureKind.BAD_SAMPLE, message=text, where="generate")
    return None
