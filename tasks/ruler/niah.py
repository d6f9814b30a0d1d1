"""RULER needle in a haystack: look up the values of a few keys among many key-value sentences.

Source: RULER (arXiv 2404.06654) in the variant of the Sparse Frontier (arXiv 2504.17768): keys and values are four
hyphen-joined parts of eight random characters, and the haystack consists of more sentences of the same form.
Distractors come from a fixed list of 16,384 per needle type, so that their tokens are remembered between samples; the
needles that are asked for are fresh in every sample. No key and no value occurs twice in a sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

from tasks.answers import numbered_lines, plain, read_answer
from tasks.errors import ParameterError
from tasks.fit import Room, num_fitting
from tasks.parameters import TaskParameters, fraction, one_of, whole
from tasks.pieces import without_leading_space
from tasks.prompts import PromptFrame, PromptWords, frame_prompt
from tasks.ruler.filler import FILLER_SENTENCES
from tasks.ruler.words import vocabulary, vocabulary_hash
from tasks.sample import Sample, SampleIdentity, Score, scored, unanswered
from tasks.seeding import Draw
from tasks.task import Draft, Task, too_short

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_NUM_LISTED = 16_384
_STATEMENT = re.compile(r".*\S\s*:\s*\S+")


@dataclass(frozen=True, kw_only=True)
class NeedleParameters(TaskParameters):
    """Defaults are the paper's."""

    num_queries: int = whole(4, least=1, most=64)
    """Keys asked for."""
    needle: str = one_of("codes", ("codes", "words", "numbers"))
    """What keys and values look like: `codes` are four hyphen-joined parts of eight random characters each; `words`
    maps a pair of words to a word; `numbers` maps a pair of words to a seven-digit number."""
    haystack: str = one_of("needles", ("needles", "sentences"))
    """What fills the context: more key-value sentences, or plain sentences without keys."""
    num_distractors: int = whole(0, most=10_000)
    """With `haystack: sentences`, key-value sentences among the filler that nobody asks for."""
    depth: float | None = fraction(None)
    """Where the needles stand, from 0 (start) to 1 (end) of the context; by default at uniformly random places."""

    def __post_init__(self) -> None:
        if self.haystack == "needles" and self.num_distractors:
            raise ParameterError("num_distractors needs haystack: sentences (needles has as many as fit)")


class Pair(NamedTuple):
    """A needle's key and value."""

    key: str
    value: str

    @property
    def sentence(self) -> str:
        """The needle as it stands in the context, with the space before it."""
        return f" The value stored for {self.key} is: {self.value}."


class NeedleTask(Task[NeedleParameters]):
    """Find the values of `num_queries` keys; value = share of keys with the right value."""

    name = "ruler_niah"
    parameters_type = NeedleParameters
    approximation_window = 512

    def identity_parameters(self, parameters: NeedleParameters) -> dict[str, Any]:
        known = parameters.as_dict()
        return known if parameters.needle == "codes" else known | {"vocabulary": vocabulary_hash()}

    def draft(self, parameters: NeedleParameters, draw: Draw, room: Room, identity: SampleIdentity) -> Draft:
        needles = _fresh_pairs(parameters.needle, draw, parameters.num_queries)
        frame = _frame(parameters, needles)
        left = room.left(frame) - sum(room.cost(needle.sentence) for needle in needles)
        if left < 0:
            raise too_short(self.name, room.length_tokens, room.aim_tokens - left)
        filler = _filler(parameters, needles, draw, room, left)
        placed = _place([needle.sentence for needle in needles], filler, parameters.depth, draw)
        gold = [list(needle) for needle in needles]
        answer = "\n".join(f"{number}. {key}: {value}" for number, (key, value) in enumerate(needles, 1))
        return Draft(frame=frame, context=without_leading_space(placed), gold=gold, gold_answer=answer)

    def judge(self, sample: Sample, completion: str, compat: bool) -> Score:
        found = read_answer(completion, primed=sample.primed)
        if found is None and compat:
            found = completion.strip() or None
        if found is None:
            return unanswered("no answer block")
        items = _statements(found)
        right = [_states(items.get(number, ""), *pair) for number, pair in enumerate(sample.gold, 1)]
        return scored(sum(right) / len(right), found, f"{sum(right)} of {len(right)} values")


def _statements(text: str) -> dict[int, str]:
    """The first statement of the form "…: value" for each number; lines of another form are passed over."""
    items: dict[int, str] = {}
    for number, statement in numbered_lines(text):
        if _STATEMENT.fullmatch(statement):
            items.setdefault(number, statement)
    return items


def _states(statement: str, key: str, value: str) -> bool:
    """Whether "… key …: value" is stated; the key's case counts, the value's does not."""
    left, colon, right = statement.rpartition(":")
    return bool(colon) and key in left.split() and plain(right).rstrip(".") == plain(value)


def _frame(parameters: NeedleParameters, needles: list[Pair]) -> PromptFrame:
    one = len(needles) == 1
    keys = ", ".join(needle.key for needle in needles)
    words = PromptWords(
        introduction="The context holds sentences that each store a value for a key. Look up the values asked for.",
        question=f"Which value is stored for the following key{'' if one else 's'}: {keys}?",
        answer_format="\n".join(f"{number}. <key {number}>: <value {number}>" for number in range(1, len(needles) + 1)),
        rules=(
            "Write one numbered line for each key, in the order in which the keys are asked.",
            "Copy keys and values exactly as they stand in the context.",
        ),
        cue=f"1. {needles[0].key}:",
        primed_format=True,
    )
    return frame_prompt(words, parameters.reply)


def _filler(parameters: NeedleParameters, needles: list[Pair], draw: Draw, room: Room, left: int) -> list[str]:
    taken = {text for needle in needles for text in needle}
    others = _distractors(parameters.needle, taken, draw)
    if parameters.haystack == "needles":
        sentences: list[str] = []
        for sentence in others:
            left -= room.cost(sentence)
            if left < 0:
                break
            sentences.append(sentence)
        return sentences
    chosen = list(islice(others, parameters.num_distractors))
    left -= sum(room.cost(sentence) for sentence in chosen)
    if left < 0:
        raise too_short("ruler_niah", room.length_tokens, room.aim_tokens - left)
    plain_sentences = list(FILLER_SENTENCES) * (left // 15 + 1)
    kept = plain_sentences[: num_fitting((room.cost(sentence) for sentence in plain_sentences), left)]
    return _place(chosen, kept, None, draw)


def _place(needles: list[str], filler: list[str], depth: float | None, draw: Draw) -> list[str]:
    """The needles among the filler: at one depth in their own order, or shuffled in."""
    if depth is None:
        slots = sorted(draw.below(len(filler) + 1) for _ in needles)
    else:
        slots = [round(depth * len(filler))] * len(needles)
    shuffled = draw.shuffled(needles)
    placed = list(filler)
    for slot, needle in reversed(list(zip(slots, shuffled, strict=True))):
        placed.insert(slot, needle)
    return placed


def _fresh_pairs(kind: str, draw: Draw, count: int) -> list[Pair]:
    """`count` pairs without a repeated key or value."""
    pairs: list[Pair] = []
    seen: set[str] = set()
    while len(pairs) < count:
        pair = _pair(kind, draw)
        if not seen.intersection(pair) and pair.key != pair.value:
            seen.update(pair)
            pairs.append(pair)
    return pairs


def _pair(kind: str, draw: Draw) -> Pair:
    if kind == "codes":
        text = draw.text(_ALPHABET, 64)
        parts = [text[start : start + 8] for start in range(0, 64, 8)]
        return Pair("-".join(parts[:4]), "-".join(parts[4:]))
    words = vocabulary()
    key = f"{draw.choice(words)}-{draw.choice(words)}"
    if kind == "words":
        return Pair(key, f"{draw.choice(words)}-{draw.choice(words)}")
    return Pair(key, str(1_000_000 + draw.below(9_000_000)))


@cache
def _listed(kind: str) -> list[Pair]:
    return _fresh_pairs(kind, Draw("ruler_niah", "distractors", kind), _NUM_LISTED)


def _distractors(kind: str, taken: set[str], draw: Draw) -> Iterator[str]:
    """Sentences of the fixed list in random order; none shares a key or value with `taken`."""
    listed = _listed(kind)
    for position in draw.distinct(len(listed)):
        if not taken.intersection(listed[position]):
            yield listed[position].sentence
