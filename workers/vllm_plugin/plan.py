"""Splits one scheduler step into work for the stock kernel and work for the sparse methods. Plain Python.

The phase of a row is a matter of its position, not of how the scheduler came to run it: rows below the prompt's
length are prompt rows, later ones decode rows. So a preempted request that is recomputed in one go gives every
row the treatment that it had the first time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from workers.vllm_plugin.requests import RequestState


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive query rows of one request."""

    request: RequestState
    row: int
    """Index in the batch: selects the block table."""
    first_token: int
    """Index of the first query row in the flat batch."""
    num_tokens: int
    first_position: int
    """Position of that row in the sequence, 0-based."""
    continues: bool = False
    """A decode row alone in its step, right behind the previous decode row: page summaries need one key more."""

    @property
    def end_position(self) -> int:
        """One past the last position: the context length of the last row."""
        return self.first_position + self.num_tokens

    @property
    def completes_prompt(self) -> bool:
        length = self.request.prompt_length
        return self.first_position < length <= self.end_position

    def part(self, start: int, end: int) -> Span:
        """The rows at positions [start, end)."""
        skipped = start - self.first_position
        return Span(self.request, self.row, self.first_token + skipped, end - start, start)


@dataclass(frozen=True, slots=True)
class Plan:
    """A step's rows by the treatment that they get."""

    dense: tuple[Span, ...]
    """For the stock kernel."""
    prefill: tuple[Span, ...]
    """Prompt rows of requests with a prefill method."""
    decode: tuple[Span, ...]
    """Decode rows of requests whose decode is not dense, one token each."""
    voting: tuple[Span, ...]
    """Prompt rows of requests whose method looks at the last ones: it compresses, or decodes with a memory."""

    @property
    def is_stock(self) -> bool:
        """True when the stock kernel can take the whole batch as it is and nothing must be remembered."""
        return not (self.prefill or self.decode or self.voting)


def has_only_dense_rows(request: RequestState, start: int, end: int) -> bool:
    """Whether the rows at positions [start, end) are dense and nothing of them is remembered."""
    method = request.method
    in_prompt = start < request.prompt_length and (method.prefill is not None or method.observer is not None)
    after = end > request.prompt_length and not method.is_decode_dense
    return not (in_prompt or after)


def make_plan(spans: Iterable[Span]) -> Plan:
    """Sort the spans of a step, each cut at the end of its prompt, by treatment."""
    dense: list[Span] = []
    prefill: list[Span] = []
    decode: list[Span] = []
    voting: list[Span] = []
    for span in spans:
        _place_prompt(span, dense, prefill, voting)
        _place_decode(span, dense, decode)
    return Plan(tuple(dense), tuple(prefill), tuple(decode), tuple(voting))


def _place_prompt(span: Span, dense: list[Span], prefill: list[Span], voting: list[Span]) -> None:
    end = min(span.end_position, span.request.prompt_length)
    if end <= span.first_position:
        return
    part = span.part(span.first_position, end)
    method = span.request.method
    (dense if method.prefill is None else prefill).append(part)
    if method.observer is not None:
        voting.append(part)


def _place_decode(span: Span, dense: list[Span], decode: list[Span]) -> None:
    start = max(span.first_position, span.request.prompt_length)
    if start >= span.end_position:
        return
    method = span.request.method
    if method.is_decode_dense:
        dense.append(span.part(start, span.end_position))
    else:
        decode.extend(_decode_rows(span, start))


def _decode_rows(span: Span, start: int) -> list[Span]:
    """One span a row; notes in the request how far it has come."""
    request, end = span.request, span.end_position
    continues = end - start == 1 and request.decoded_until == start
    request.decoded_until = end
    return [replace(span.part(p, p + 1), continues=continues) for p in range(start, end)]


def spans_of_step(
    order: Iterable[str],
    num_scheduled: dict[str, int],
    num_computed: Callable[[str], int],
    requests: dict[str, RequestState],
) -> list[Span]:
    """The batch's rows in order. `num_computed` gives the tokens that were in the cache before the step."""
    spans: list[Span] = []
    first_token = 0
    for row, internal_id in enumerate(order):
        count = num_scheduled.get(internal_id, 0)
        if count:
            spans.append(Span(requests[internal_id], row, first_token, count, num_computed(internal_id)))
        first_token += count
    return spans
