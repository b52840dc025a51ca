"""Owns how the commands tell of a server that went back in time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from statesync.cli.checks import Check, checked
from statesync.errors import NotMigrated, ServerUnavailable
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.servers import Side, losses
from statesync.settings import Settings
from statesync.state.receipts import RETENTION_SECONDS

__all__ = ["check_losses", "costs_of", "describe_loss"]

_LOOK_AT = "what did players lose? `statesync conflicts list`, `not_live` of `recover --json`"
_RECENT = timedelta(seconds=RETENTION_SECONDS)
"""For so long the doctor warns of a loss."""


def describe_loss(loss: Mapping[str, Any] | None) -> str:
    """Say in one sentence which server went back, when that was found, and by what."""
    if loss is None:
        return "No server went back in time, as far as is on record."
    found = f"{Side(loss['side']).servers} went back in time, as a {loss['found_by']} found at "
    found += str(loss["found_at"])
    pairs = [
        f"{name} has counted {loss[key][1]} sweeps where {loss[key][0]} are remembered"
        for key, name in (("redis_sweeps", "Redis"), ("postgresql_sweeps", "PostgreSQL"))
        if loss.get(key)
    ]
    return f"{found}{': ' * bool(pairs)}{', '.join(pairs)}."


def costs_of(counters: Mapping[str, int]) -> str:
    """Say in one sentence what all losses have cost so far."""
    reverted, saved = counters.get("reverted", 0), counters.get("saved_again", 0)
    return f"In all, {reverted} characters were set to their rows, {saved} were saved again."


def check_losses(orchestrator: GameStateOrchestrator, _: Settings) -> Iterator[Check]:
    """Check whether a server went back in time lately; nothing if one is away or not migrated."""
    try:
        status = orchestrator.hot.status()
        loss = next(iter(losses(orchestrator.hot, orchestrator.engine)), None)
    except (ServerUnavailable, NotMigrated):  # the checks of that server say so
        return
    found = describe_loss(loss.as_json() if loss else None)
    if loss:
        found += f" {costs_of(status.counters)}"
    is_recent = loss and datetime.now(UTC) - loss.found_at < _RECENT
    settling = "the sweeps compare what is live; `statesync recover` does it at once"
    yield checked(
        "losses",
        found,
        fail=f"nothing is restored until it is settled: {settling}" if status.recovering else "",
        warn=settling if status.comparing else _LOOK_AT if is_recent else "",
    )
