"""What a network is told besides words and time, such as the size a picture was cut from: settings of a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from diffgen.contracts import Conditioning, Family
from diffgen.errors import UsageError
from diffgen.recipe import Recipe


def numbers(recipe: Recipe, family: Family) -> Mapping[str, tuple[float, ...]]:
    """The numbers of each setting in `family.defaults.told`, as the recipe has them or as they usually are.

    Raises:
        UsageError: a setting is not a number, or not as many of them as the family takes.
    """
    defaults = family.defaults
    if not defaults.told or defaults.sized is None:
        return {}
    usual = defaults.sized(recipe.width or 0, recipe.height or 0, recipe.frames or 1, recipe.steps or defaults.steps)
    found = {}
    for name in sorted(defaults.told):
        given, wanted = recipe.settings.get(name, usual[name]), _row(usual[name])
        values = _row(given)
        fits = values is not None and all(math.isfinite(value) for value in values)
        if values is None or not fits or len(values) != len(wanted or ()):
            kind = "a number" if isinstance(usual[name], (int, float)) else f"{len(wanted or ())} numbers"
            raise UsageError(f"{name} is {kind}, such as {usual[name]}; got {given!r}")
        found[name] = values
    return found


def _row(value: Any) -> tuple[float, ...] | None:
    values = value if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(one, bool) or not isinstance(one, (int, float)) for one in values):
        return None
    return tuple(float(one) for one in values)


def told(cond: Conditioning, recipe: Recipe, family: Family, rows: int) -> Conditioning:
    """`cond` with those numbers in `extra`, [rows, numbers] each."""
    extra = {name: torch.tensor([row] * rows) for name, row in numbers(recipe, family).items()}
    return replace(cond, extra={**cond.extra, **extra}) if extra else cond
