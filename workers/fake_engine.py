"""An engine without a model: deterministic text, chosen speed, and faults on demand.

`EngineSpec.options` sets it up (all optional):

    seconds             a request takes this long (0)
    seconds_to_load     loading takes this long (0)
    process             True: depends on a child process, whose death is the engine's death
    poison_share        this share of the prompts kills the engine, chosen by the prompt alone
    hang_share          this share makes it stop producing tokens
    refuse_share        this share fails alone
    out_of_memory_above more requests in flight than this exhaust the memory
    wrong_after         from this number of requests on, completions are wrong (a broken device)
    cannot_start        the text of an EngineStartError
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import time
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from workers.engine import EngineFacts, EngineProgress, EngineSpec, Generation, GenerationFailure, GenerationRequest
from workers.failures import EngineDead, EngineKilled, EngineOutOfMemory, EngineStartError, Failure, FailureKind


class FakeEngine:
    """See the module's text; implements `workers.engine.Engine`."""

    def __init__(self, spec: EngineSpec) -> None:
        options = spec.options
        if options.get("cannot_start"):
            raise EngineStartError(str(options["cannot_start"]))
        started = time.monotonic()
        time.sleep(float(options.get("seconds_to_load", 0.0)))
        self._spec, self._options = spec, options
        self._running: dict[str, tuple[float, GenerationRequest]] = {}
        self._impossible: list[GenerationFailure] = []
        self._num_tokens = 0
        self._num_requests = 0
        self._closed = False
        self._child = _start_child() if options.get("process") else None
        self.facts = EngineFacts(
            engine="fake",
            device="none",
            executor="none",
            num_weight_loads=1,
            load_seconds=time.monotonic() - started,
            kv_capacity_tokens=spec.max_model_len * spec.max_in_flight,
            max_model_len=spec.max_model_len,
        )

    def submit(self, request: GenerationRequest) -> None:
        num_tokens = len(request.prompt_token_ids) + request.max_tokens
        if num_tokens > self._spec.max_model_len:
            message = f"{num_tokens} tokens exceed the context of {self._spec.max_model_len}"
            self._fail(request, FailureKind.OVER_LENGTH, message)
            return
        if _struck(request, "refuse", self._options):
            self._fail(request, FailureKind.BAD_SAMPLE, "refused by the fake engine")
            return
        self._num_requests += 1
        self._running[request.request_id] = (time.monotonic() + float(self._options.get("seconds", 0.0)), request)

    def poll(self, timeout_seconds: float) -> list[Generation | GenerationFailure]:
        self._check_alive()
        self._check_memory()
        failed, self._impossible = self._impossible, []
        if self._is_hanging():
            time.sleep(timeout_seconds)
            return list(failed)
        ready = self._ready()
        if not ready and not failed and timeout_seconds > 0:
            time.sleep(min(timeout_seconds, self._seconds_to_next(timeout_seconds)))
            ready = self._ready()
        return [*failed, *(self._generate(request) for request in ready)]

    def abort(self, request_id: str) -> None:
        self._running.pop(request_id, None)

    def progress(self) -> EngineProgress:
        use = len(self._running) / max(1, self._spec.max_in_flight)
        return EngineProgress(num_in_flight=len(self._running), num_tokens_total=self._num_tokens, kv_use=min(1.0, use))

    def close(self) -> None:
        self._closed = True
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def _fail(self, request: GenerationRequest, kind: FailureKind, message: str) -> None:
        failure = Failure(kind=kind, message=message, where="engine")
        self._impossible.append(GenerationFailure(request_id=request.request_id, failure=failure))

    def _check_alive(self) -> None:
        if self._closed or (self._child is not None and self._child.poll() is not None):
            killed = self._child is not None and self._child.returncode == -signal.SIGKILL and not self._closed
            raise (EngineKilled if killed else EngineDead)("the fake engine's process is gone")

    def _check_memory(self) -> None:
        limit = self._options.get("out_of_memory_above")
        if limit is not None and len(self._running) > int(limit):
            raise EngineOutOfMemory(f"{len(self._running)} requests in flight do not fit, {limit} would")

    def _is_hanging(self) -> bool:
        return any(_struck(request, "hang", self._options) for _, request in self._running.values())

    def _ready(self) -> list[GenerationRequest]:
        now = time.monotonic()
        due = [i for i, (at, _) in self._running.items() if at <= now]
        if any(_struck(self._running[i][1], "poison", self._options) for i in due):
            self.close()
            raise EngineDead("the fake engine died of a poisoned prompt")
        return [self._running.pop(i)[1] for i in due]

    def _seconds_to_next(self, default: float) -> float:
        return max(
            0.0, min((at for at, _ in self._running.values()), default=time.monotonic() + default) - time.monotonic()
        )

    def _generate(self, request: GenerationRequest) -> Generation:
        wrong = self._num_requests > int(self._options.get("wrong_after", 1 << 62))
        digest = _digest(request, "wrong" if wrong else "right")
        num_tokens = 1 + digest[0] % min(8, request.max_tokens)
        self._num_tokens += len(request.prompt_token_ids) + num_tokens
        sparse = bool(request.method)
        return Generation(
            request_id=request.request_id,
            text=digest.hex()[: 8 * num_tokens],
            token_ids=tuple(digest[i] for i in range(num_tokens)),
            finish_reason="stop",
            num_prompt_tokens=len(request.prompt_token_ids),
            density_prefill=0.5 if sparse else 1.0,
            density_decode=0.25 if sparse else 1.0,
            num_decode_steps=num_tokens - 1,
        )


def _start_child() -> subprocess.Popen[bytes]:
    """A process that lives as long as we hold its input open, and no longer."""
    return subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


def _digest(request: GenerationRequest, salt: str) -> bytes:
    method = json.dumps({k: dict(v) for k, v in request.method.items()}, sort_keys=True)
    prompt = array("q", request.prompt_token_ids).tobytes()
    return hashlib.sha256(prompt + f"{salt} {method} {request.seed}".encode()).digest()


def _struck(request: GenerationRequest, fault: str, options: Mapping[str, Any]) -> bool:
    share = float(options.get(f"{fault}_share", 0.0))
    is_canary = request.request_id.startswith("canary-")
    return share > 0 and not is_canary and is_struck(request.prompt_token_ids, fault, share)


def is_struck(prompt_token_ids: Sequence[int], fault: str, share: float) -> bool:
    """Whether this prompt is among the `share` that the fault hits: a property of the prompt alone."""
    digest = hashlib.sha256(fault.encode() + array("q", prompt_token_ids).tobytes()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
