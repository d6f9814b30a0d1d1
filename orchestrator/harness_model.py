"""Our engine as a model of lm-evaluation-harness, so that any of its generate_until tasks runs under any method.

The harness has no entry points for models, so the command `frontier-lm-eval` is its own command line with our model
added under the name `frontier`; in Python, importing this module does the same:

    frontier-lm-eval run --model frontier --tasks gsm8k \\
        --model_args pretrained=smollm2-135m,dtype=float32,decode=quest,decode.token_budget=256

Model arguments: `pretrained` (short name, folder or hub id), `revision`; a method by phase (`prefill=`, `decode=`,
`compress=`, with options as `decode.token_budget=`); and the fields of `EngineSpec` (`dtype`, `tensor_parallel`,
`max_in_flight`, `kv_cache_gib`, `gpu_memory_utilization`, `load_format`), `max_length` and `engine` (`vllm` or `fake`).
Needs the extra `lm-eval`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from sparsekernels.parameters import METHODS, MethodChoice, ParameterError, Phase, parse_method

from orchestrator.models import describe_model
from tasks.harness import DEFAULT_OUTPUT_TOKENS, cut
from tasks.tokenizer import load_tokenizer
from workers.engine import EngineSpec, Generation, GenerationFailure, GenerationRequest
from workers.factory import load_engine

DEFAULT_LENGTH = 4096
"""Tokens of prompt and output, where the model allows more."""


def method_of(arguments: Mapping[str, Any]) -> MethodChoice:
    """The method among model arguments: `decode=quest, decode.token_budget=64`. Raises ParameterError."""
    chosen: dict[str, Any] = {}
    for phase in Phase:
        name = arguments.get(str(phase))
        options = {k.split(".", 1)[1]: v for k, v in arguments.items() if k.startswith(f"{phase}.")}
        if name is None and options:
            raise ParameterError(f"{phase}.{next(iter(options))} is given without {phase}=METHOD")
        if name is not None:
            chosen[str(phase)] = parse_method(str(name), options)
            if METHODS[str(name)].phase is not phase:
                raise ParameterError(f"{name} is a {METHODS[str(name)].phase} method; it cannot act in {phase}")
    return MethodChoice(**chosen)


def spec_of(arguments: Mapping[str, Any]) -> EngineSpec:
    """The engine that model arguments ask for. Raises ParameterError for one that nobody knows."""
    known = {f.name for f in fields(EngineSpec)} - {"model", "model_fingerprint", "max_model_len"}
    phases = tuple(map(str, Phase))
    for name in arguments:
        if name not in known | {"pretrained", "revision", "max_length", "engine", *phases} and not name.startswith(
            tuple(f"{phase}." for phase in phases)
        ):
            raise ParameterError(f"unknown model argument {name!r}")
    if "pretrained" not in arguments:
        raise ParameterError("pretrained is missing: a short name, a folder or a hub id")
    model = describe_model(str(arguments["pretrained"]), arguments.get("revision"))
    longest = model.max_context_tokens or DEFAULT_LENGTH
    length = int(arguments.get("max_length") or min(DEFAULT_LENGTH, longest))
    given = {name: arguments[name] for name in known if name in arguments}
    return EngineSpec(
        model=str(model.folder or arguments["pretrained"]),
        model_fingerprint=model.fingerprint,
        max_model_len=length,
        **given,
    )


@register_model("frontier")
class FrontierModel(LM):  # type: ignore[misc]
    """Generations of one engine under one method."""

    def __init__(
        self, batch_size: Any = None, max_batch_size: Any = None, device: Any = None, **arguments: Any
    ) -> None:
        super().__init__()
        self.method = method_of(arguments)
        self.spec = spec_of(arguments)
        self.tokenizer = load_tokenizer(self.spec.model)
        self.engine = load_engine(str(arguments.get("engine", "vllm")), self.spec)
        self.generations: dict[str, Generation] = {}
        """By request, in the order of arrival: densities and times, for who wants them afterwards."""

    @property
    def tokenizer_name(self) -> str:
        return self.spec.model.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages in the model's template. Raises TokenizerError where the template refuses them."""
        return self.tokenizer.conversation(chat_history, reply=add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str:
        return ""

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError("the frontier model generates; it runs generate_until tasks only")

    loglikelihood_rolling = loglikelihood

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Completions in the order of the requests, cut at their stop strings."""
        names = [f"lm-eval {len(self.generations) + i}" for i in range(len(requests))]
        for name, request in zip(names, requests, strict=True):
            self.engine.submit(self._request(name, *request.args))
        waiting = set(names)
        while waiting:
            for result in self.engine.poll(60.0):
                if isinstance(result, GenerationFailure):
                    raise RuntimeError(f"{result.failure.kind}: {result.failure.message}")
                self.generations[result.request_id] = result
                waiting.discard(result.request_id)
        return [
            cut(self.generations[name].text, request.args[1].get("until"))
            for name, request in zip(names, requests, strict=True)
        ]

    def _request(self, name: str, text: str, settings: Mapping[str, Any]) -> GenerationRequest:
        limit = int(settings.get("max_gen_toks", DEFAULT_OUTPUT_TOKENS))
        ids = self.tokenizer.document(text)[-(self.spec.max_model_len - limit) :]
        sampled = bool(settings.get("do_sample")) or float(settings.get("temperature") or 0) > 0
        return GenerationRequest(
            request_id=name,
            prompt_token_ids=ids,
            max_tokens=limit,
            method=self.method.to_wire(),
            temperature=float(settings.get("temperature") or 0.0) if sampled else 0.0,
            top_p=float(settings.get("top_p") or 1.0),
            top_k=int(settings.get("top_k") or 0),
        )


def main() -> None:
    """The harness's command line, with our model; errors of model arguments take one line."""
    from lm_eval.__main__ import cli_evaluate

    from orchestrator.errors import UserError

    try:
        cli_evaluate()
    except (ParameterError, UserError) as error:
        sys.exit(f"error: {error}")
