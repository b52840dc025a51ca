"""Vitals are derived where none were saved, by a function that a game may replace."""

from __future__ import annotations

import pytest

from statesync.errors import SettingsError
from statesync.state.vitals import derive_vitals, load_function


def test_derived_vitals_are_full() -> None:
    vitals = derive_vitals({"endurance": 5, "agility": 2})
    assert vitals["hp"] == {"cur": 100, "max": 100}
    assert vitals["energy"] == {"cur": 70, "max": 70}
    assert vitals["mana"] == {"cur": 20, "max": 20}


def test_function_is_found_by_its_path() -> None:
    assert load_function("statesync.state.vitals:derive_vitals") is derive_vitals


@pytest.mark.parametrize("path", ["no.such.module:f", "statesync.state.vitals:nothing", "math:pi"])
def test_wrong_path_names_the_variable(path: str) -> None:
    with pytest.raises(SettingsError, match="STATESYNC_VITALS"):
        load_function(path)
