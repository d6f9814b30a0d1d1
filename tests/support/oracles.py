"""Solvers that read only the prompt: they prove that every gold answer can be found in its context.

Each knows how the task words its prompt and its context, as a perfect reader would, and nothing about the sample.
Question answering is solved for the invented articles alone, whose sentence templates are known.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from tasks.qa.invented import templates

_QUESTION = re.compile(r"<questions?>\n(.*?)\n</questions?>", re.DOTALL)
_CONTEXT = re.compile(r"<context>\n(.*)\n</context>", re.DOTALL)
_BOUGHT = (
    r"bought (?P<item>an? [^.]*?)(?: from a pedlar)?\.", r"purchased (?P<item>an? [^.]*)\.",
    r"became the owner of (?P<item>an? [^.]*)\.", r"acquired (?P<item>an? [^.]*)\.",
    r"A dealer sold (?P<item>an? [^.]*) to Tamsin\.", r"picked out (?P<item>an? [^.]*) and paid",
)  # fmt: skip


def solve(task: str, prompt: str) -> str:
    """The answer, in the format that the prompt asks for."""
    question = _search(_QUESTION, prompt)
    return _SOLVERS[task](question, _search(_CONTEXT, prompt))


def _search(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    assert match is not None, f"no {pattern.pattern} in the prompt"
    return match.group(1)


def _needles(question: str, context: str) -> str:
    keys = question.rpartition(": ")[2].rstrip("?").split(", ")
    pairs = re.findall(r"The value stored for (\S+) is: (\S+)\.", context)
    assert len({key for key, _ in pairs}) == len(pairs), "a key occurs twice"
    values = dict(pairs)
    return "\n".join(f"{number}. {key}: {values[key]}" for number, key in enumerate(keys, 1))


def _variables(question: str, context: str) -> str:
    known = {str(number) for number in re.findall(r"value (\d+),", question)}
    assignments = re.findall(r"VAR (\w+) = (?:VAR )?(\w+)\.", context)
    grown = True
    while grown:
        reached = {name for name, source in assignments if source in known}
        grown = not reached <= known
        known |= reached
    return " ".join(sorted(name for name in known if not name.isdigit()))


def _common_words(question: str, context: str) -> str:
    count = int((re.findall(r"Which (\d+) words", question) or ["1"])[0])
    words = Counter(line.split(". ", 1)[1] for line in context.split("\n"))
    return "\n".join(f"{number}. {word}" for number, (word, _) in enumerate(words.most_common(count), 1))


def _chapters(context: str) -> dict[int, str]:
    parts = re.split(r"(?:^|\n\n)Chapter (\d+):\n", context)
    return {int(number): text for number, text in zip(parts[1::2], parts[2::2], strict=True)}


def _bought(chapter: str) -> str | None:
    for pattern in _BOUGHT:
        if match := re.search(pattern, chapter):
            return match.group("item").partition(" ")[2]
    return None


def _facts(question: str, context: str) -> str:
    story = _chapters(context)
    answers = []
    for line in question.split("\n"):
        number, asked = line.split(". ", 1)
        chapter = story[int(re.findall(r"Chapter (\d+)\?", asked)[0])]
        answers.append(f"{number}. {_fact(asked, chapter)}")
    return "\n".join(answers)


def _fact(asked: str, chapter: str) -> str:
    from tasks.story.world import CHARACTERS, LOCATIONS

    if "item" in asked:
        return _bought(chapter) or ""
    options = LOCATIONS if "place" in asked else CHARACTERS
    found = [option for option in options if re.search(rf"\b{re.escape(option)}\b", chapter)]
    assert len(found) == 1, (asked, found)
    return found[0]


def _item_before(question: str, context: str) -> str:
    asked = re.findall(r"bought the (.*)\?", question)[0]
    bought = [_bought(chapter) for _, chapter in sorted(_chapters(context).items())]
    return bought[bought.index(asked) - 1] or ""


def _without_purchase(question: str, context: str) -> str:
    return ", ".join(str(number) for number, chapter in _chapters(context).items() if _bought(chapter) is None)


def _document(question: str, context: str) -> str:
    number = int(re.findall(r"^According to Document (\d+):", question)[0])
    parts = re.split(r"(?:^|\n\n)Document (\d+):\n", context)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[str(number)]


def _phrase(question: str, context: str) -> str:
    document = _document(question, context)
    asked = question.partition(": ")[2].strip()
    name = re.findall(r"of the register is (\w+)\.", document)[0]
    for rows in templates()["kinds"].values():
        for row in rows:
            if row["question"].format(name=name) == asked:
                before, _, after = row["sentence"].replace("{name}", name).partition("{value}")
                return str(re.findall(f"{re.escape(before)}(.*?){re.escape(after)}", document)[0])
    raise AssertionError(f"no template for {asked}")


def _letter(question: str, context: str) -> str:
    first, *rest = re.split(r"\s+(?=[A-D]\. ?)", question.replace(" Options:", ""))
    answer = _phrase(first, context)
    return next(text[0] for text in rest if text[2:].strip() == answer)


_SOLVERS: dict[str, Callable[[str, str], str]] = {
    "ruler_niah": _needles,
    "ruler_vt": _variables,
    "ruler_cwe": _common_words,
    "qa_squad": _phrase,
    "qa_quality": _letter,
    "qa_toefl": _letter,
    "story_retrieval": _facts,
    "story_multihop": _item_before,
    "story_filtering": _without_purchase,
}
