"""Checks and loading that the analysis commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import UserError

if TYPE_CHECKING:
    from orchestrator.analysis.admissible import Rule
    from orchestrator.analysis.frame import CampaignFrames

NEEDED = ("numpy", "scipy", "pandas", "pyarrow", "matplotlib")


def need_analysis_packages() -> None:
    """Raises UserError naming the first package of the extra `analysis` that is missing."""
    from importlib.util import find_spec

    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} not installed; install the extra: sparse-frontier-campaigns[analysis]")


def load_frames(url: str, name: str | None) -> CampaignFrames:
    """The campaign from the store at `url`."""
    need_analysis_packages()
    from orchestrator.analysis.load import load_campaign
    from orchestrator.store.session import open_store

    with open_store(url, create=False) as store:
        return load_campaign(store, name)


def checked_rule(rule: str) -> Rule:
    """The rule of that name. Raises UserError naming those that exist."""
    need_analysis_packages()
    from orchestrator.analysis.admissible import Rule

    try:
        return Rule(rule)
    except ValueError:
        raise UserError(f"--rule is {rule!r}; it must be one of: {', '.join(Rule)}") from None


def checked_share(option: str, value: float) -> float:
    """`value` when it lies strictly between 0 and 1."""
    if not 0 < value < 1:
        raise UserError(f"--{option} is {value:g}; it must lie between 0 and 1")
    return value


def checked_view(value: str, known: tuple[str, ...]) -> str:
    """`value` when it is one of `known`."""
    if value not in known:
        raise UserError(f"--view is {value!r}; it must be one of: {', '.join(known)}")
    return value
