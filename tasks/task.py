"""What a task is: parameters, a drafter of samples, and a scorer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from tasks.errors import LengthError, ParameterError
from tasks.fit import Room, in_window
from tasks.parameters import TaskParameters, parse
from tasks.prompts import PromptFrame
from tasks.sample import RULES, Sample, SampleIdentity, Score
from tasks.seeding import Draw
from tasks.tokenizer import EncodedPrompt, Tokenizer

P = TypeVar("P", bound=TaskParameters)
_MAX_DRAWS = 64
_MAX_AIMS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One attempt at a sample, before its length is known for certain."""

    frame: PromptFrame
    context: Sequence[str]
    """Segments that are joined as they are."""
    gold: Any
    gold_answer: str
    extras: Mapping[str, Any] = field(default_factory=dict)


class _Fitted(NamedTuple):
    draft: Draft
    encoded: EncodedPrompt


class Task(ABC, Generic[P]):
    """A task; its instances hold no state that a sample depends on."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised whenever the bytes or the meaning of a sample change."""
    plugin: str | None = None
    """Package and version that adds the task, part of its samples' identity; set by the registry, None for our own."""
    parameters_type: type[P]
    default_max_output_tokens: ClassVar[int] = 1024
    approximation_window: ClassVar[int] = 256
    """Query rows at the prompt's end from which methods estimate importance; covers the tail of the paper's prompts."""

    def parse_parameters(self, mapping: Mapping[str, Any] | None = None) -> P:
        """Checked parameters over the defaults. Raises ParameterError naming task, parameter and value."""
        return parse(self.parameters_type, self.name, mapping or {})

    def identity_parameters(self, parameters: P) -> dict[str, Any]:
        """The parameters as they enter a sample's identity; data-driven tasks add their data set's hash."""
        return parameters.as_dict()

    def full_identity_parameters(self, parameters: P) -> dict[str, Any]:
        """`identity_parameters`, and the package with its version that a task of another package depends on."""
        return {**self.identity_parameters(parameters), **({"plugin": self.plugin} if self.plugin else {})}

    def num_available(self, parameters: P) -> int | None:
        """Samples that there are; None: as many as one asks for. Cells are no larger."""
        return None

    def output_limit(self, parameters: P) -> int:
        """Tokens that a completion may have, unless the campaign says otherwise."""
        return self.default_max_output_tokens

    def identity(
        self, parameters: P, *, length_tokens: int, tokenizer: Tokenizer, seed: int, index: int
    ) -> SampleIdentity:
        """All that the sample depends on."""
        return SampleIdentity(
            task=self.name,
            version=self.version,
            parameters=self.full_identity_parameters(parameters),
            length_tokens=length_tokens,
            tokenizer=tokenizer.fingerprint,
            seed=seed,
            index=index,
        )

    def sample(self, parameters: P, *, length_tokens: int, tokenizer: Tokenizer, seed: int, index: int) -> Sample:
        """The sample with this identity; its prompt has 95 to 100 % of `length_tokens` tokens after the template.

        A draft that misses the window is drawn again from the identity's next stream. Raises LengthError when the
        parameters do not fit the length, and DataError when a data set is missing.
        """
        identity = self.identity(parameters, length_tokens=length_tokens, tokenizer=tokenizer, seed=seed, index=index)
        fitted = self._fit(parameters, identity, tokenizer)
        return self._finish(parameters, identity, tokenizer, fitted)

    @abstractmethod
    def draft(self, parameters: P, draw: Draw, room: Room, identity: SampleIdentity) -> Draft:
        """One attempt, filled up to `room.aim_tokens`. Raises LengthError when even the least context is too long."""

    def score(self, sample: Sample, completion: str, rules: str = "default") -> Score:
        """Judge any text; never raises for a text, and the value lies in [0, 1] or is None where rules drop it."""
        if rules not in RULES:
            raise ParameterError(f"scoring rules must be one of {', '.join(RULES)}, not {rules!r}")
        answered = bool(completion.strip())
        return self.judge(sample, f"{sample.cue if answered else ''}{completion}", rules == "sparse_frontier_v1")

    @abstractmethod
    def judge(self, sample: Sample, completion: str, compat: bool) -> Score:
        """The task's own rule; `compat` asks for the reference implementation's."""

    def _fit(self, parameters: P, identity: SampleIdentity, tokenizer: Tokenizer) -> _Fitted:
        too_long: LengthError | None = None
        for attempt in range(_MAX_DRAWS):
            try:
                for fitted in self._aim(parameters, identity, tokenizer, attempt):
                    if in_window(len(fitted.encoded.ids), identity.length_tokens):
                        return fitted
            except LengthError as error:
                too_long = error
        if too_long is not None:
            raise too_long
        raise LengthError(f"{self.name}: no prompt of {identity.length_tokens} tokens in {_MAX_DRAWS} draws")

    def _aim(self, parameters: P, identity: SampleIdentity, tokenizer: Tokenizer, attempt: int) -> Iterator[_Fitted]:
        """The same draw, aimed lower or higher by the error of the draft before; few steps are needed, if any."""
        aim = identity.length_tokens
        for _ in range(_MAX_AIMS):
            room = Room(tokenizer, identity.length_tokens, aim)
            draft = self.draft(parameters, Draw(identity.key, attempt), room, identity)
            frame = draft.frame
            encoded = tokenizer.encode_prompt(frame.head, draft.context, frame.tail, frame.opening)
            yield _Fitted(draft, encoded)
            missed = identity.length_tokens - len(encoded.ids)
            if missed > 0 and tokenizer.exact:
                return
            aim += missed

    def _finish(self, parameters: P, identity: SampleIdentity, tokenizer: Tokenizer, fitted: _Fitted) -> Sample:
        draft, encoded = fitted
        sample = Sample(
            key=identity.key,
            task=self.name,
            index=identity.index,
            prompt=draft.frame.head + "".join(draft.context) + draft.frame.tail,
            prompt_token_ids=encoded.ids,
            tail_tokens=encoded.tail_tokens,
            gold=draft.gold,
            gold_answer=draft.gold_answer,
            num_gold_tokens=len(tokenizer.encode(f"<answer>\n{draft.gold_answer}\n</answer>")),
            primed=parameters.reply == "primed",
            cue=draft.frame.cue,
            extras=draft.extras,
        )
        if sample.num_gold_tokens > self.default_max_output_tokens:
            raise LengthError(
                f"{self.name}: the gold answer has {sample.num_gold_tokens} tokens, "
                f"the output limit is {self.default_max_output_tokens}"
            )
        return sample


def too_short(task: str, length_tokens: int, needed_tokens: int) -> LengthError:
    """The error for parameters whose smallest prompt exceeds the length."""
    return LengthError(
        f"{task}: length {length_tokens} is too short, these parameters need about {needed_tokens} tokens"
    )
