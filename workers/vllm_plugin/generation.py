"""Our requests as vLLM takes them, and vLLM's finished ones, with the workers' report, as a `Generation`."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from sparsekernels.parameters import MethodChoice

from workers.engine import EngineSpec, Generation, GenerationRequest
from workers.vllm_plugin.requests import EXTRA_KEY
from workers.vllm_plugin.sharing import cache_salt, may_share
from workers.vllm_plugin.statistics import Report


def as_vllm_request(request: GenerationRequest, spec: EngineSpec) -> tuple[Any, Any]:
    """vLLM's prompt and sampling parameters; the method travels in the latter."""
    from vllm import SamplingParams, TokensPrompt
    from vllm.sampling_params import RequestOutputKind

    method = MethodChoice.from_wire(request.method)
    salt = cache_salt(request.cache_group, request.request_id, method, request.prompt_token_ids)
    own: dict[str, Any] = {"id": request.request_id, "method": method.to_wire()}  # every default written out
    if method.prefill is not None:
        own["shares"] = salt
    parameters = SamplingParams(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        seed=request.seed,
        max_tokens=request.max_tokens,
        logprobs=spec.options.get("logprobs"),
        ignore_eos=bool(spec.options.get("ignore_eos", False)),
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_reading_prefix_cache=not may_share(method),
        extra_args={EXTRA_KEY: own},
    )
    return TokensPrompt(prompt_token_ids=list(request.prompt_token_ids), cache_salt=salt), parameters


def make_generation(output: Any, report: Report | None, num_layers: int | None) -> Generation:
    """`output` is vLLM's finished RequestOutput; `num_layers` asks for figures by layer."""
    completion, times = output.outputs[0], output.metrics
    num_steps = max(0, len(completion.token_ids) - 1)
    report = report or Report(density_prefill=(), density_decode=1.0, kv_kept=(), num_restarts=0, peak_tokens=0)
    return Generation(
        request_id=output.request_id,
        text=completion.text,
        token_ids=tuple(completion.token_ids),
        finish_reason=completion.finish_reason or "stop",
        num_prompt_tokens=len(output.prompt_token_ids),
        num_cached_tokens=output.num_cached_tokens or 0,
        density_prefill=_mean(report.density_prefill),
        density_decode=report.density_decode,
        kv_kept=_mean(report.kv_kept),
        num_decode_steps=num_steps,
        seconds_to_first_token=times.first_token_ts - times.queued_ts,
        seconds_decode=times.last_token_ts - times.first_token_ts,
        seconds_queued=times.scheduled_ts - times.queued_ts,
        num_preemptions=report.num_restarts,
        kv_tokens_peak=report.peak_tokens,
        layers=None if num_layers is None else _layers(report, num_layers),
    )


def chosen_logprobs(completion: Any) -> list[float]:
    """Log-probabilities of the generated tokens."""
    return [at[token].logprob for at, token in zip(completion.logprobs, completion.token_ids, strict=True)]


def _layers(report: Report, num_layers: int) -> dict[str, tuple[float, ...]]:
    """The figures of every layer; decode rows read the same number of entries in all of them."""
    return {
        "density_prefill": report.density_prefill or (1.0,) * num_layers,
        "density_decode": (report.density_decode,) * num_layers,
        "kv_kept": report.kv_kept or (1.0,) * num_layers,
    }


def _mean(values: tuple[float, ...]) -> float:
    return fmean(values) if values else 1.0
