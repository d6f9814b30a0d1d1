"""frontier: evaluation campaigns of sparse attention. From Python: `from orchestrator import Campaign`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.errors import ModelError, SpecError, StoreError, UserError
    from orchestrator.library import Campaign, Progress, campaigns

__all__ = ["Campaign", "ModelError", "Progress", "SpecError", "StoreError", "UserError", "campaigns"]


def __getattr__(name: str) -> Any:
    """The library, loaded when one of its names is asked for: `import orchestrator` alone stays light."""
    if name in __all__:
        from orchestrator import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
