"""Keys: what the terminal sends, and what each does to the view."""

from __future__ import annotations

import pytest

from orchestrator.dashboard.keys import decode
from orchestrator.dashboard.state import HeatColumns, View, ViewState, chosen_cells, press
from tests.support import snapshots

SNAPSHOT = snapshots.running()


def pressed(*keys: str, state: ViewState | None = None) -> ViewState:
    state = state or ViewState()
    for key in keys:
        state = press(state, key, SNAPSHOT)
    return state


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"q", ["q"]),
        (b"1\x1b[B\x1b[A", ["1", "down", "up"]),
        (b"\x1b", ["escape"]),
        (b"\x1b[24;5~x", ["x"]),
        (b"\x1b[5~\x1b[6~", ["page up", "page down"]),
        ("é/".encode(), ["é", "/"]),
        (b"\x7f\r\t", ["backspace", "enter", "tab"]),
        (b"\xff", []),
    ],
)
def test_bytes_of_a_terminal_become_keys(data: bytes, keys: list[str]) -> None:
    assert decode(data) == keys


def test_numbers_and_tab_switch_views() -> None:
    assert pressed("2").view is View.HEAT
    assert pressed("4", "tab").view is View.OVERVIEW
    assert pressed("left").view is View.FAILURES
    assert pressed("9") == ViewState()


def test_c_turns_the_heat_map() -> None:
    assert pressed("c").columns is HeatColumns.LENGTH
    assert pressed("c", "c").columns is HeatColumns.TASK


def test_m_goes_through_the_models_and_back_to_all() -> None:
    seen = []
    state = ViewState()
    for _ in range(5):
        state = pressed("m", state=state)
        seen.append(state.model)
    assert seen == [*snapshots.MODELS, None]


def test_typed_words_filter_and_escape_clears() -> None:
    state = pressed("/", *"quesx", "backspace", *"t 4096", "enter")
    assert (state.text, state.typing) == ("quest 4096", False)
    assert {(c.method, c.budget) for c in chosen_cells(state, SNAPSHOT.cells)} == {("quest", "4096")}
    assert pressed("escape", state=state) == ViewState()


def test_letters_that_are_typed_into_the_filter_are_no_commands() -> None:
    assert not pressed("/", "q").closed
    assert pressed("q").closed


def test_scrolling_never_goes_above_the_first_line() -> None:
    assert pressed("down", "down", "up").offset == 1
    assert pressed("up").offset == 0
    assert pressed("page down", "home").offset == 0


def test_help_goes_away_with_any_key_and_swallows_it() -> None:
    assert pressed("?").help
    assert pressed("?", "q") == ViewState()


def test_space_holds_the_picture_and_lets_it_go() -> None:
    assert pressed(" ").paused
    assert not pressed(" ", " ").paused
