"""Writes a skeleton package: templates with `@name@` and the like filled in."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import UserError

TEMPLATES = Path(__file__).parent
NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """What is to be written."""

    kind: str
    """`method` or `task`: the folder of templates."""
    name: str
    """Of the method or task."""
    choices: dict[str, str]
    """Further words to fill in, without their @ signs."""
    chosen: dict[str, str]
    """Template files that have another name than the file they make: `select_prefill` → `selection`."""

    @property
    def package(self) -> str:
        """Name of the Python package."""
        return f"frontier_{self.name}"

    @property
    def words(self) -> dict[str, str]:
        camel = "".join(part.capitalize() for part in self.name.split("_"))
        own = {"name": self.name, "package": self.package, "project": self.package.replace("_", "-"), "Name": camel}
        return own | self.choices


def write(skeleton: Skeleton, folder: Path) -> list[Path]:
    """Write the package into `folder`, which must not exist, and return its files.

    Raises UserError for a name that is no Python name, and for a folder that is there.
    """
    if not NAME.fullmatch(skeleton.name) or keyword.iskeyword(skeleton.name):
        raise UserError(f"{skeleton.name!r} must be lower case letters, digits and '_', starting with a letter")
    if folder.exists():
        raise UserError(f"{folder} exists; choose another folder with --out")
    try:
        return _write_all(skeleton, folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from None


def _write_all(skeleton: Skeleton, folder: Path) -> list[Path]:
    written = []
    for template in sorted((TEMPLATES / skeleton.kind).glob("*.tmpl")):
        target = _target(template, skeleton, folder)
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_filled(template.read_text("utf-8"), skeleton.words), encoding="utf-8")
            written.append(target)
    return written


def _target(template: Path, skeleton: Skeleton, folder: Path) -> Path | None:
    """Where a template goes: test files to `tests`, modules into the package; None for a choice not taken."""
    name = template.name.removesuffix(".tmpl")
    stem = name.partition(".")[0]
    if stem.startswith("select_"):
        if stem not in skeleton.chosen:
            return None
        name = name.replace(stem, skeleton.chosen[stem])
    if name.startswith("test_"):
        return folder / "tests" / name.replace("NAME", skeleton.name)
    if name.endswith(".py"):
        return folder / skeleton.package / name.replace("NAME", skeleton.name)
    return folder / name


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text
