"""The one prompt shape of all tasks: question, context, question again, instructions (Sparse Frontier, section 2).

Every prompt ends its head with the opening of the context and begins its tail with the closing of it, so that the tail
(repeated question and instructions) is what a method's approximation window has to cover.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.answers import ANSWER_OPENING

_GENERAL_RULES = (
    "Put nothing but the answer itself inside the answer section.",
    "Keep the explanation short.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFrame:
    """Everything of a prompt but its context."""

    head: str
    tail: str
    opening: str = ""
    """Start of the model's reply that we write for it; empty unless the reply is primed."""
    cue: str = ""
    """End of `opening` that belongs to the answer itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptWords:
    """What a task says in its prompt."""

    introduction: str
    question: str
    answer_format: str
    """An example of the answer's lines."""
    rules: tuple[str, ...] = ()
    cue: str = ""
    """First words of the answer that a primed reply already holds."""
    primed_format: bool = False
    """Show the format in a primed prompt too; small models copy its placeholders where no cue prevents it."""
    plural: bool = False
    """Several questions: the tags are named accordingly."""


def frame_prompt(words: PromptWords, reply: str) -> PromptFrame:
    """Head and tail around a context, for one of the reply styles in `tasks.parameters.REPLIES`."""
    noun = "questions" if words.plural else "question"
    verb = "are" if words.plural else "is"
    head = (
        f"{words.introduction}\n\n"
        f"The {noun} {verb} given twice, before and after the context.\n\n"
        f"<{noun}>\n{words.question}\n</{noun}>\n\n<context>\n"
    )
    repeated = f"{noun}_repeated"
    tail = f"\n</context>\n\n<{repeated}>\n{words.question}\n</{repeated}>\n\n{_instructions(words, reply)}"
    if reply != "primed":
        return PromptFrame(head=head, tail=tail)
    return PromptFrame(head=head, tail=tail, opening=f"{ANSWER_OPENING}\n{words.cue}", cue=words.cue)


def _instructions(words: PromptWords, reply: str) -> str:
    if reply == "explained":
        ask = (
            "First explain in a few sentences how you find the answer. "
            "Then give the final answer in exactly the format shown here:\n\n"
            "<explanation>\nYour short explanation.\n</explanation>\n"
        )
    else:
        ask = "Give the answer in exactly the format shown here:\n\n"
    if reply == "primed" and not words.primed_format:
        return "Answer from the context alone.\n\nImportant:\n" + "\n".join(f"- {rule}" for rule in words.rules)
    rules = (*words.rules, *(_GENERAL_RULES if reply == "explained" else _GENERAL_RULES[:1]))
    listed = "\n".join(f"- {rule}" for rule in rules)
    return f"{ask}<answer>\n{words.answer_format}\n</answer>\n\nImportant:\n{listed}"
