"""Numbers as recipes write them, with their bounds."""

from __future__ import annotations

from typing import Annotated

from rlkit.recipe.marks import Between

Count = Annotated[int, Between(1, 10**9)]
CountOrZero = Annotated[int, Between(0, 10**9)]
Share = Annotated[float, Between(0, 1)]
Amount = Annotated[float, Between(0, 1e6)]
