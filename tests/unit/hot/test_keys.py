"""The names of the keys are a contract with games in any language."""

from __future__ import annotations

from statesync.hot.keys import Keys


def test_names_are_those_of_the_contract() -> None:
    keys = Keys()
    assert keys.core(7) == "ac:7"
    assert keys.dirty == "dirty_accounts"
    assert keys.claimed == "dirty_accounts:claimed"
    assert keys.since == "dirty_accounts:since"
    assert keys.quarantine == "dirty_accounts:quarantine"
    assert keys.stats == "statesync:stats"
    assert keys.sweep == "statesync:sweep"


def test_prefix_goes_before_every_name() -> None:
    keys = Keys("eu1:")
    names = [keys.core(7), keys.tombstone(7), keys.dirty, keys.claimed, keys.since]
    names += [keys.quarantine, keys.stats]
    assert all(name.startswith("eu1:") for name in names)
    assert keys.core(7) == "eu1:" + Keys().core(7)
