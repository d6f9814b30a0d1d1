"""What the three question answering tasks share: the choice of questions and the packed context."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from tasks.errors import LengthError
from tasks.fit import Room
from tasks.parameters import TaskParameters, text, whole
from tasks.prompts import PromptFrame, PromptWords, frame_prompt
from tasks.qa.documents import Collection, Question
from tasks.qa.packing import document_costs, pack
from tasks.qa.sources import load_collection
from tasks.sample import SampleIdentity
from tasks.seeding import Draw
from tasks.task import Draft, Task
from tasks.tokenizer import Tokenizer

_MARGIN_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class QuestionParameters(TaskParameters):
    """Defaults are the paper's."""

    dataset: str = text("full")
    """`full` is the fetched public data set, `sample` the small one of this package, anything else a path."""
    max_own_tokens: int = whole(8108, least=256)
    """Questions whose prompt with their own document alone is longer are left out, so that all lengths from 8172 tokens
    on use the same questions (8172 less 64 kept for the chat template)."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """Questions that may be asked, and documents that may stand around them."""

    questions: tuple[int, ...]
    pool: tuple[int, ...]


class QuestionTask(Task[QuestionParameters]):
    """One question about one of many numbered documents. Sample i asks question i of a shuffled list; past its end the
    list starts again, with other documents around."""

    parameters_type = QuestionParameters
    source: ClassVar[str]

    def identity_parameters(self, parameters: QuestionParameters) -> dict[str, Any]:
        known = parameters.as_dict()
        del known["dataset"]
        return known | {"data": load_collection(self.source, parameters.dataset).content_hash}

    def draft(self, parameters: QuestionParameters, draw: Draw, room: Room, identity: SampleIdentity) -> Draft:
        collection = load_collection(self.source, parameters.dataset)
        choice = _choice(self, collection, room.tokenizer, parameters, room.length_tokens)
        order = _order(identity.task, identity.version, collection.content_hash, identity.seed, choice.questions)
        asked = collection.questions[order[identity.index % len(order)]]
        packed = pack(
            collection, asked, choice.pool, lambda number: self._frame(parameters, asked.text, number), draw, room
        )
        return Draft(
            frame=packed.frame,
            context=packed.segments,
            gold=list(asked.answers),
            gold_answer=asked.answers[0],
            extras={
                "document": packed.number,
                "num_documents": packed.num_documents,
                "repeated": identity.index >= len(order),
            },
        )

    @abstractmethod
    def words(self, question: str, number: int) -> PromptWords:
        """What the prompt says, given the question and the asked document's number."""

    def _frame(self, parameters: QuestionParameters, question: str, number: int) -> PromptFrame:
        return frame_prompt(self.words(question, number), parameters.reply)

    def own_tokens(
        self, collection: Collection, tokenizer: Tokenizer, parameters: QuestionParameters
    ) -> tuple[int, ...]:
        """For each question, about how long its prompt with its own document alone is."""
        blank = self._frame(parameters, "?", 100)
        frame = len(tokenizer.encode_prompt(blank.head, (), blank.tail, blank.opening).ids)
        costs = document_costs(collection, tokenizer)
        return tuple(
            frame + costs[question.document] + 2 * len(tokenizer.encode(question.text))
            for question in collection.questions
        )


@lru_cache(maxsize=32)
def _own_tokens(
    task: QuestionTask, collection: Collection, tokenizer: Tokenizer, parameters: QuestionParameters
) -> tuple[int, ...]:
    return task.own_tokens(collection, tokenizer, parameters)


@lru_cache(maxsize=64)
def _choice(
    task: QuestionTask, collection: Collection, tokenizer: Tokenizer, parameters: QuestionParameters, length_tokens: int
) -> _Choice:
    limit = min(parameters.max_own_tokens, length_tokens - _MARGIN_TOKENS)
    own = _own_tokens(task, collection, tokenizer, parameters)
    kept = tuple(number for number, tokens in enumerate(own) if tokens <= limit)
    if not kept:
        raise LengthError(
            f"{task.name}: length {length_tokens} is too short, the shortest question of {collection.name} "
            f"needs about {min(own) + _MARGIN_TOKENS} tokens with its document"
        )
    questions: tuple[Question, ...] = collection.questions
    return _Choice(kept, tuple(sorted({questions[number].document for number in kept})))


@lru_cache(maxsize=64)
def _order(task: str, version: int, content_hash: str, seed: int, questions: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(Draw(task, version, "questions", content_hash, seed).shuffled(questions))
