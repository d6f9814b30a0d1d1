"""Numbers of a campaign file, within what the store's columns hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictInt

LARGEST = 2**31 - 1

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A finite number; neither a text nor true or false."""
Count = Annotated[StrictInt, Field(ge=1, le=LARGEST)]
Length = Annotated[Count, Field(ge=128)]
"""Tokens of a prompt."""
NumSamples = Annotated[StrictInt, Field(ge=1, le=1_000_000)]
"""Samples a cell."""
Seed = Annotated[StrictInt, Field(ge=-(2**63), le=2**63 - 1)]
