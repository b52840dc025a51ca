"""Owns the vitals of a character that has none saved.

A game replaces the function by ``STATESYNC_VITALS=package.module:function``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

from statesync.errors import SettingsError

__all__ = ["DeriveVitals", "derive_vitals", "load_function"]


class DeriveVitals(Protocol):
    """Derives vitals, such as ``{"hp": {"cur": 100, "max": 100}}``, from a character's stats."""

    def __call__(self, stats: Mapping[str, int], /) -> dict[str, Any]: ...


def derive_vitals(stats: Mapping[str, int], /) -> dict[str, Any]:
    """Return full vitals: hp from endurance, energy from agility, mana from intelligence."""
    bases = {"hp": ("endurance", 50), "energy": ("agility", 50), "mana": ("intelligence", 20)}
    full = {name: base + 10 * stats.get(stat, 0) for name, (stat, base) in bases.items()}
    return {name: {"cur": value, "max": value} for name, value in full.items()}


def load_function(path: str) -> DeriveVitals:
    """Import the function that ``package.module:function`` names. Raises SettingsError."""
    module, _, name = path.partition(":")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"STATESYNC_VITALS: {path} cannot be imported: {error}") from None
    if not callable(function):
        raise SettingsError(f"STATESYNC_VITALS: {path} is not a function")
    return cast("DeriveVitals", function)
