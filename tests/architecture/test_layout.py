"""Promises about the tree that a reader relies on."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("orchestrator", "workers", "tasks", "kernels", "migrations")
FORBIDDEN_NAMES = {"manager", "helper", "helpers", "utils", "util", "common", "misc"}


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (p for p in (ROOT / package).rglob("*.py") if not {"__pycache__", "versions"} & set(p.parts))


@pytest.mark.parametrize("path", list(modules()), ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_stay_small_and_say_what_they_are(path: Path) -> None:
    limit = 600 if "kernels" in path.parts else 300
    assert len(path.read_text().splitlines()) <= limit
    assert path.stem not in FORBIDDEN_NAMES


def test_tests_and_the_kernels_root_are_no_packages() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_every_folder_with_code_is_in_the_file_map_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    folders = {p.parent.relative_to(ROOT).as_posix() for p in modules()}
    top = {"/".join(f.split("/")[:2]) for f in folders if not f.startswith("migrations")}
    assert {f for f in top if f"{f}/" not in readme and f"{f}`" not in readme} == set()


def test_documents_name_files_that_exist() -> None:
    missing = []
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text()):
            if not (document.parent / target).exists():
                missing.append(f"{document.relative_to(ROOT)}: {target}")
    assert missing == []


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("orchestrator.cli.main", ["ray", "torch", "vllm", "sqlalchemy", "matplotlib", "pandas", "transformers"]),
        ("orchestrator", ["orchestrator.library", "typer", "rich", "pydantic", "pandas", "sqlalchemy"]),
        ("orchestrator.library", ["ray", "torch", "vllm", "sqlalchemy", "matplotlib", "pandas", "IPython", "typer"]),
        ("sparsekernels.parameters", ["torch"]),
        ("workers.protocol", ["torch", "vllm", "ray"]),
        ("tasks.registry", ["torch", "transformers", "vllm"]),
    ],
)
def test_a_cold_import_stays_light(module: str, absent: list[str]) -> None:
    code = f"import sys, {module}; print([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_import_contracts_hold() -> None:
    done = subprocess.run([Path(sys.executable).parent / "lint-imports"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]
