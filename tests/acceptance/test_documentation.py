"""Documents hold: blocks run, commands and options exist, pages link to what is there, the site builds."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml
from typer.core import TyperGroup

from orchestrator.cli.main import build_app
from orchestrator.cli.reference import commands
from orchestrator.domain.spec_file import parse_spec
from tests.support.code_blocks import Block, Reader, blocks
from tests.support.models import smollm2_folder

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")])
RUN_PAGES = [ROOT / "README.md"] + [
    DOCS / f"{name}.md" for name in ("tutorial", "resume", "reading-a-report", "choosing-budgets", "library")
]
"""Documents whose bash and python blocks are typed in order, in one folder."""
RUN_ELSEWHERE = {
    "own-method.md": "tests/acceptance/test_skeletons.py",
    "own-task.md": "tests/acceptance/test_skeletons.py",
    "lm-eval.md": "tests/integration/harness",
}
"""Documents whose commands need packages installed or a real engine, and the tests that run them."""
GROUP = typer.main.get_command(build_app())
assert isinstance(GROUP, TyperGroup)
COMMANDS = dict(commands(GROUP))


def name_of(path: Path) -> str:
    return path.name


@pytest.fixture(scope="module")
def model() -> Path:
    return smollm2_folder()


@pytest.fixture
def reader(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """Someone in an empty folder, with the quickstart's model fetched before."""
    home = tmp_path / "home"
    (home / "models").mkdir(parents=True)
    (home / "models" / "smollm2-135m").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRONTIER_HOME", str(home))
    monkeypatch.setenv("FRONTIER_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.delenv("FRONTIER_STORE", raising=False)
    return Reader(monkeypatch)


def is_of_make(block: Block) -> bool:
    """The Makefile's targets install and test everything; continuous integration runs them."""
    return all(line.startswith("make ") for line in block.text.splitlines() if line.strip())


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN_PAGES, ids=name_of)
def test_what_a_page_shows_runs_as_it_stands(page: Path, reader: Reader, tmp_path: Path) -> None:
    shown = [block for block in blocks(page) if block.language in ("bash", "python") and not is_of_make(block)]
    assert shown
    for block in shown:
        reader.types(block)
    made = re.findall(r"`(report/[\w./-]+\.\w+)`", page.read_text())
    assert [name for name in made if not (tmp_path / name).is_file()] == []


def test_the_tutorial_names_a_figure() -> None:
    assert re.search(r"`report/figures/[\w-]+\.svg`", (DOCS / "tutorial.md").read_text())


def test_bash_is_shown_only_where_it_is_run() -> None:
    shown = {page for page in PAGES for block in blocks(page) if block.language == "bash"}
    assert {page.name for page in shown - set(RUN_PAGES)} <= set(RUN_ELSEWHERE)
    assert [test for test in RUN_ELSEWHERE.values() if not (ROOT / test).exists()] == []


def campaign_files() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in blocks(page):
            if block.language == "yaml" and "methods:" in block.text and block.text.startswith("name:"):
                yield f"{page.name}:{block.line}", block.text


@pytest.mark.parametrize(("place", "text"), [pytest.param(*found, id=found[0]) for found in campaign_files()])
def test_campaign_files_in_documents_are_valid(place: str, text: str) -> None:
    assert parse_spec(text, place).name


def shown_commands() -> Iterator[tuple[str, list[str]]]:
    """Every `frontier …` in code of a document, with its place."""
    for page in PAGES:
        text = page.read_text()
        inline = [(text.count("\n", 0, m.start()) + 1, m[1]) for m in re.finditer(r"`(frontier [^`\n]+)`", text)]
        fenced = [(b.line, line.strip()) for b in blocks(page) for line in b.text.splitlines()]
        indented = [
            (text.count("\n", 0, m.start()) + 1, m[1]) for m in re.finditer(r"^    (frontier .+)$", text, re.MULTILINE)
        ]
        for number, shown in (*inline, *fenced, *indented):
            if shown.startswith("frontier "):
                try:
                    yield f"{page.name}:{number}", shlex.split(shown, comments=True)[1:]
                except ValueError:
                    continue


def test_every_command_and_option_that_a_document_shows_exists() -> None:
    wrong, num_checked = [], 0
    for place, words in shown_commands():
        verbs = [word for word in words if not word.startswith("-")]
        path = next((tuple(verbs[:n]) for n in (2, 1) if tuple(verbs[:n]) in COMMANDS), None)
        if path is None:
            if verbs and verbs[0] not in GROUP.commands and re.fullmatch(r"[a-z]+", verbs[0]):
                wrong.append(f"{place}: frontier {' '.join(words)}: no such command")
            continue
        known = {name for option in COMMANDS[path].params for name in (*option.opts, *option.secondary_opts)}
        given = {word.split("=")[0].rstrip(".,") for word in words if re.match(r"--?[a-z]", word)}
        allowed = {"--help", "-h", "--debug", "--verbose", "-v", "--quiet", "-q"}
        if path != ("bench",):
            wrong += [f"{place}: frontier {' '.join(path)} has no {o}" for o in sorted(given - known - allowed)]
        num_checked += 1
    assert wrong == []
    assert num_checked > 50


def test_make_targets_that_documents_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for page in PAGES for word in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert named
    assert named <= targets


def test_top_level_documents_link_to_files_that_exist() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", (ROOT / name).read_text())
        assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_citation_names_the_version_and_the_licence_of_the_package() -> None:
    import tomllib

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["cff-version"] == "1.2.0"


def test_the_site_builds_without_a_warning_and_holds_every_page(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for page in DOCS.rglob("*.md"):
        made = page.relative_to(DOCS).with_suffix("")
        assert (tmp_path / "site" / made / "index.html").is_file() or made.name == "index", made
    api = (tmp_path / "site" / "api" / "index.html").read_text()
    assert "against_dense" in api
