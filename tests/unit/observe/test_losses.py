"""A server that went back is a warning of the doctor while something is left to do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from statesync.durable.losses import Loss, NotLive, Side
from statesync.observe.check import CheckStatus
from statesync.observe.losses import check_loss

NOW = datetime.now(UTC)
SETTLED = Loss(side=Side.REDIS, found_at=NOW, recovered_at=NOW, redis_sweeps=(9, 5))


def test_a_loss_that_leaves_nothing_to_do_is_no_warning() -> None:
    for loss in (SETTLED, replace(SETTLED, side=Side.POSTGRESQL, saved_again=3)):
        check = check_loss(loss)
        assert (check.status, check.do) == (CheckStatus.OK, "")
        assert check.found.endswith("Nothing is left to do; this is shown for seven days.")


@pytest.mark.parametrize(
    ("loss", "todo"),
    [
        (replace(SETTLED, recovered_at=None), "statesync recover"),
        (replace(SETTLED, reverted=3), "statesync conflicts list"),
        (replace(SETTLED, not_live=[NotLive(7, 5, 4)]), "statesync recover"),
        (replace(SETTLED, quarantined=1), "statesync quarantine list"),
    ],
)
def test_a_loss_that_leaves_something_to_do_is_a_warning(loss: Loss, todo: str) -> None:
    check = check_loss(loss)
    assert (check.status, todo in check.do) == (CheckStatus.WARN, True)
    assert "Nothing is left" not in check.found


def test_redis_that_may_have_come_up_empty() -> None:
    check = check_loss(replace(SETTLED, redis_sweeps=(9, 0)))
    assert "what was not saved is lost, and nobody can name it" in check.found
    assert "No character is known" not in check.found
    assert "statesync restore --all-active" in check.do
    assert "statesync conflicts list" in check.do


def test_a_day_later_nobody_is_to_be_loaded() -> None:
    found_at = NOW - timedelta(hours=25)
    check = check_loss(replace(SETTLED, found_at=found_at, redis_sweeps=(9, 0)))
    assert (check.status, check.do) == (CheckStatus.OK, "")
    assert "nobody can name it" in check.found
