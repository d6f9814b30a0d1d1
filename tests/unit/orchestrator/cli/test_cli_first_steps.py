"""init, validate, methods, and the errors of the command line's edge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sparsekernels.parameters import METHODS
from typer.testing import CliRunner, Result

from orchestrator import Campaign
from orchestrator.cli.main import build_app
from orchestrator.cli.options import mask_password, mask_passwords
from orchestrator.cli.output import note
from orchestrator.errors import UserError
from orchestrator.store.campaigns import NewCampaign, create_campaign
from orchestrator.store.session import open_store
from tests.support.models import smollm2_folder


def frontier(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), list(arguments))


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_what_init_writes_is_valid_and_says_what_comes_next(tmp_path: Path) -> None:
    path = tmp_path / "my campaign.yaml"
    written = frontier("init", str(path))
    assert written.exit_code == 0
    assert "next: frontier models pull smollm2-135m" in written.stdout
    checked = frontier("validate", str(path), "--json")
    facts = json.loads(checked.stdout)
    assert facts["name"] == "my-campaign"
    assert facts["num_samples"] == facts["num_cells"] * 4
    assert facts["methods"] == ["dense", "quest", "vertical_slash"]


def test_init_never_overwrites_unasked(tmp_path: Path) -> None:
    path = tmp_path / "campaign.yaml"
    path.write_text("mine")
    assert isinstance(frontier("init", str(path)).exception, UserError)
    assert path.read_text() == "mine"
    assert frontier("init", str(path), "--force").exit_code == 0


def test_validate_counts_the_grid_and_names_the_next_step(tmp_path: Path) -> None:
    path = tmp_path / "campaign.yaml"
    frontier("init", str(path))
    shown = frontier("validate", str(path)).stdout
    assert "10 cells, 40 samples" in shown
    assert f"next: frontier plan {path}" in shown


def test_validate_takes_a_priority_without_a_word(tmp_path: Path) -> None:
    spec = tmp_path / "campaign.yaml"
    frontier("init", str(spec))
    spec.write_text(spec.read_text() + "priority: 3\n")
    told = frontier("validate", str(spec))
    assert (told.exit_code, told.stderr) == (0, "")


def test_methods_are_listed_as_the_parameters_have_them() -> None:
    listed = json.loads(frontier("methods", "list", "--json").stdout)["methods"]
    assert [m["name"] for m in listed] == list(METHODS)
    assert all(m["phase"] and m["summary"] for m in listed)


def test_a_method_shows_its_options_with_defaults() -> None:
    options = {o["name"]: o for o in json.loads(frontier("methods", "show", "quest", "--json").stdout)["options"]}
    assert options["token_budget"]["required"]
    assert options["page_size"] == {"name": "page_size", "type": "int", "required": False, "default": 16, "meaning": ""}


def test_a_mistyped_method_is_answered_with_the_closest() -> None:
    assert "did you mean 'quest'" in str(frontier("methods", "show", "qest").exception)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("validate", "/nowhere/campaign.yaml"), "/nowhere/campaign.yaml: cannot read: No such file or directory"),
        (("valdate", "x"), "No such command 'valdate'. Did you mean 'validate'"),
        (("validate", "x", "--jsn"), "No such option: --jsn"),
        (("watch", "--store", "mysql://me:hush@host/db"), "mysql://me:***@host/db"),
        (("watch", "--store", "postgresql://me:hu@sh@host/db"), "me:***@host/db': write an @ in the password"),
        (("watch", "--store", "/nowhere/store.sqlite"), "store /nowhere/store.sqlite: there is no such file"),
        (("watch", "--store", "sqlite://"), "store URL 'sqlite://' names no file: a store in memory would be lost"),
        (("watch", "--store", "sqlite:///x?mode=ro"), "a SQLite store takes no options; write sqlite:////FILE"),
        (("run", "x", "--workers", "0"), "'--workers': Input should be greater than or equal to 1, not '0'"),
        (("plan", "x", "--price", "inf"), "--price is inf; it must be a finite number"),
        (("chaos", "--plan", "examples/chaos.yaml", "--database", "x"), "--database is 'x'; it must be one of"),
        (("import", "x", "--as", "two words"), "--as is 'two words'; it must be letters, digits"),
        (("tasks", "new", "mine", "--out", "/proc/x"), "cannot write /proc/x: No such file or directory"),
        (("methods", "show", "dense"), "dense is full attention and has no options"),
        (("tasks", "preview", "ruler_niah", "--model", "x" * 300), "no folder and no hub id"),
        (("tasks", "preview", "ruler_niah", "--set", "num_queries=2020-13-45"), "must be an integer, not '2020-13-45'"),
    ],
)
def test_bad_input_is_one_line_without_a_traceback(arguments: tuple[str, ...], told: str) -> None:
    done = process(*arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_very_long_value_is_quoted_by_both_ends() -> None:
    done = process("validate", "x" * 5000 + ".yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("error: xxx")
    assert done.stderr.endswith(": cannot read: File name too long\n")
    assert len(done.stderr) < 1100


def test_a_run_of_a_cancelled_campaign_does_not_call_it_complete(tmp_path: Path) -> None:
    place = ("--store", str(tmp_path / "store.sqlite"))
    spec = tmp_path / "campaign.yaml"
    needles = "{num_queries: 1, needle: numbers, haystack: sentences}"
    spec.write_text(
        f"name: ended\nmodels: [{{source: {smollm2_folder()}, name: tiny}}]\nmethods: [dense]\n"
        f"tasks: [ruler_niah: {needles}]\nlengths: [512]\nsamples: 2\n"
    )
    Campaign.from_file(spec, store=tmp_path / "store.sqlite", engine="fake").cancel()
    done = process("run", str(spec), *place, "--engine", "fake", "--pool", "inline")
    assert "cancelled; what is recorded stays, and frontier requeue ended takes up the rest" in done.stderr
    assert "complete;" not in done.stderr


def test_a_closed_output_is_no_fault_of_ours() -> None:
    command = f'"{sys.executable}" -m orchestrator.cli.main methods list >&-'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_debug_shows_the_traceback() -> None:
    done = process("--debug", "validate", "/nowhere/campaign.yaml")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: /nowhere/campaign.yaml")


@pytest.mark.parametrize("debug", [(), ("--debug",)])
@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hush@127.0.0.1:notaport/db",
        "postgresql://me:p@hush@127.0.0.1:1/db",
        "postgresql://me:p/hush@127.0.0.1:1/db",
        "postgresql://127.0.0.1:1/db?user=me&password=hush",
        "mysql://host/db?password=hush",
    ],
)
def test_no_form_of_a_password_is_shown(url: str, debug: tuple[str, ...]) -> None:
    done = process(*debug, "status", "--store", url)
    assert done.returncode == 2
    assert "***" in done.stderr
    assert "hush" not in done.stderr + done.stdout
    assert ("Traceback" in done.stderr) == bool(debug)


def test_a_url_without_a_password_is_shown_as_it_is() -> None:
    for url in ("postgresql://me@head:5432/frontier?sslmode=require", "sqlite:////data/frontier.sqlite"):
        assert mask_password(url) == url
        assert mask_passwords(f"store {url}: refused") == f"store {url}: refused"


def test_passwords_are_masked_wherever_they_stand() -> None:
    text = "cannot connect to postgresql+psycopg://eval:s3cr:t@head:5432/frontier and redis://:x@h"
    masked = mask_passwords(text)
    assert "s3cr" not in masked
    assert "postgresql+psycopg://eval:***@head:5432/frontier" in masked
    assert "redis://:***@h" in masked


def test_quiet_silences_remarks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    note("told")
    monkeypatch.setenv("FRONTIER_QUIET", "1")
    note("silent")
    assert capsys.readouterr().err == "told\n"


def test_verbose_tells_every_event_and_quiet_excludes_it(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with open_store(f"sqlite:///{path}") as store:
        create_campaign(store, NewCampaign(name="mine", cells=[], spec={}))
    silent = process("resume", "mine", "--store", str(path))
    assert (silent.returncode, silent.stderr) == (0, "")
    told = process("--verbose", "pause", "mine", "--store", str(path))
    assert told.returncode == 0
    lines = [line.split(" ", 1)[1] for line in told.stderr.splitlines()]
    assert lines == [f"store sqlite:///{path}", "paused: paused by a person"]
    both = process("--verbose", "--quiet", "pause", "mine", "--store", str(path))
    assert (both.returncode, both.stderr) == (2, "error: --verbose and --quiet exclude each other\n")


def completions(words: str, **environment: str) -> list[str]:
    asked = {"_FRONTIER_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    command = [str(Path(sys.executable).with_name("frontier"))]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True, env={**os.environ, **environment, **asked}
    )
    return done.stdout.split()


@pytest.mark.skipif(not Path(sys.executable).with_name("frontier").exists(), reason="not installed as a command")
def test_the_shell_completes_commands_and_campaigns(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with open_store(f"sqlite:///{path}") as store:
        create_campaign(store, NewCampaign(name="my-question", cells=[], spec={}))
    assert completions("frontier wat") == ["watch"]
    assert completions("frontier status my", FRONTIER_STORE=str(path)) == ["my-question"]
    assert completions("frontier status my", FRONTIER_STORE=str(tmp_path / "none.sqlite")) == []
