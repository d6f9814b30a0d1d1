"""Finding a campaign by its name."""

from __future__ import annotations

import sqlalchemy as sa

from orchestrator.errors import StoreError
from orchestrator.store.schema import campaigns


class UnknownCampaign(StoreError):
    """No campaign of this name is in the store; the text lists those that are."""


def find_campaign(connection: sa.Connection, name: str | None) -> int:
    """The id of the campaign `name`, or of the newest. Raises UnknownCampaign."""
    wanted = sa.select(campaigns.c.id).order_by(campaigns.c.id.desc()).limit(1)
    if name is not None:
        wanted = wanted.where(campaigns.c.name == name)
    found = connection.scalar(wanted)
    if found is not None:
        return int(found)
    known = connection.scalars(sa.select(campaigns.c.name).order_by(campaigns.c.id.desc()).limit(10)).all()
    if not known:
        raise UnknownCampaign("the store holds no campaign yet")
    raise UnknownCampaign(f"no campaign named {name!r}; there are: {', '.join(sorted(known))}")
