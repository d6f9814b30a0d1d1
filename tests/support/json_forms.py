"""The forms in docs/json.md: reading them, and holding a real answer against one.

A form is JSON whose leaves name types: `text`, `int`, `float` (whole numbers included), `bool`, `null`, joined by
` or `, or `any`. A list holds the form of its elements; `{"…": form}` is a mapping with any names.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ANY_NAME = "…"
_KINDS: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "null": (type(None),),
}


def read_forms(path: Path) -> dict[str, list[Any]]:
    """Forms by command, for example `methods list`; several where an option changes the form."""
    forms: dict[str, list[Any]] = {}
    for section in re.split(r"^## frontier ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title, body = section.split("\n", 1)
        blocks = re.findall(r"```json\n(.*?)```", body, flags=re.DOTALL)
        forms[title.strip()] = [json.loads(block) for block in blocks]
    return forms


def differences(form: Any, value: Any, place: str = "") -> list[str]:
    """Where `value` is not of the form; empty when it is."""
    if isinstance(form, dict):
        return _mapping_differences(form, value, place)
    if isinstance(form, list):
        if not isinstance(value, list):
            return [f"{place} is {value!r}, not a list"]
        return [d for i, item in enumerate(value) for d in differences(form[0], item, f"{place}[{i}]")] if form else []
    if form == "any":
        return []
    kinds = tuple(kind for word in form.split(" or ") for kind in _KINDS[word])
    is_right = isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)
    return [] if is_right else [f"{place} is {value!r}, not {form}"]


def _mapping_differences(form: dict[str, Any], value: Any, place: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{place} is {value!r}, not a mapping"]
    if ANY_NAME in form:
        return [d for name, item in value.items() for d in differences(form[ANY_NAME], item, f"{place}.{name}")]
    found = [f"{place}.{name} is missing" for name in form if name not in value]
    found += [f"{place}.{name} is not documented" for name in value if name not in form]
    return found + [
        d for name in form if name in value for d in differences(form[name], value[name], f"{place}.{name}")
    ]
