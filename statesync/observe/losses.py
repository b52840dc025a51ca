"""Owns how the commands tell of servers that went back in time, and of what that has cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from statesync.durable.losses import Left, Loss, NotLive
from statesync.errors import NotMigrated, ServerUnavailable
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.servers import losses
from statesync.observe.check import Check, Topic, checked
from statesync.settings import Settings
from statesync.state.fields import listed
from statesync.state.receipts import RETENTION_SECONDS

__all__ = [
    "check_loss",
    "check_losses",
    "describe_left",
    "describe_loss",
    "describe_not_live",
    "is_recent",
    "loss_as_json",
]

_RECENT = timedelta(seconds=RETENTION_SECONDS)
"""For so long `status` shows a loss, and the doctor warns of it."""
_FOUND_BY = {
    "sweep": "the counters of the two servers show",
    "backup": "the save of a character showed",
}
_SETTLING = "the sweeps settle it; `statesync recover` does it at once"
_UNKNOWN = "No character is known to have lost anything."
_NAMELESS = "If Redis came up empty, what was not saved is lost, and nobody can name it."
_LOADING = (
    "if Redis came up empty, load who was playing: `statesync restore --all-active`; whom the game "
    "created anew instead stands in `statesync conflicts list`"
)
_LOADED_FOR = timedelta(days=1)
"""For so long: a day later, who was playing then has logged in again, or has gone."""
_LISTED = 20
"""More characters than this are counted, not listed; --json has all."""


def is_recent(loss: Loss) -> bool:
    """Return whether a loss was found within the last seven days."""
    return _age(loss) < _RECENT


def _age(loss: Loss) -> timedelta:
    return datetime.now(UTC) - loss.found_at


def loss_as_json(loss: Loss) -> dict[str, Any]:
    """Return all that is on record of a loss, with names for what its lists hold."""
    return loss.as_json() | {
        "not_live": [one._asdict() for one in loss.not_live],
        "left": [one._asdict() for one in loss.left],
    }


def describe_loss(loss: Loss) -> str:
    """Say in one line which server went back, when and by what that was found, and what it cost."""
    found_at = loss.found_at.astimezone(UTC)
    found = f"{found_at:%Y-%m-%d %H:%M:%S} UTC: {loss.side.servers} went back in time"
    found += f", as {_FOUND_BY[loss.found_by]}"
    for pair, name, other in (
        (loss.redis_sweeps, "Redis", "PostgreSQL"),
        (loss.postgresql_sweeps, "PostgreSQL", "Redis"),
    ):
        found += f"; {name} counts {pair[1]} sweeps, {other} remembers {pair[0]}" if pair else ""
    return f"{found}. {_costs(loss)}"


def _costs(loss: Loss) -> str:
    counts = {
        "set to their rows": loss.reverted,
        "saved again": loss.saved_again,
        "quarantined": loss.quarantined,
        "not live": len(loss.not_live),
        "left unsaved": len(loss.left),
    }
    costs = "; ".join(f"{what}: {number}" for what, number in counts.items() if number)
    if not loss.recovered_at:
        so_far = f"Characters so far {costs}. " if costs else ""
        return f"{so_far}Not settled yet: who is affected is not known before that."
    told = [f"Characters {costs}."] if costs else []
    if loss.counts_anew:
        told.append(_NAMELESS)
    return " ".join(told) or _UNKNOWN


def describe_not_live(characters: Sequence[NotLive]) -> list[str]:
    """Return lines about characters that a loss of PostgreSQL has set back: they were not live."""
    if not characters:
        return []
    lines = ["  Not live, so PostgreSQL's older state is all that is left of them:"]
    for char_id, evicted, row in sorted(characters, key=_char_id)[:_LISTED]:
        left_at = "was deleted" if evicted is None else f"left at version {evicted}"
        lines.append(f"    {char_id}: {left_at}, PostgreSQL has {'no row' if row is None else row}")
    return lines + _more(len(characters))


def describe_left(characters: Sequence[Left]) -> list[str]:
    """Return lines about characters that could not be saved again."""
    if not characters:
        return []
    lines = ["  Not saved again yet:"]
    for char_id, reason in sorted(characters, key=_char_id)[:_LISTED]:
        lines.append(f"    {char_id}: {reason}")
    return lines + _more(len(characters))


def _char_id(character: NotLive | Left) -> int:
    return character.char_id


def _more(number: int) -> list[str]:
    return [f"    and {number - _LISTED} more: --json has all"] if number > _LISTED else []


def check_losses(orchestrator: GameStateOrchestrator, _: Settings) -> Iterator[Check]:
    """Check which servers went back in time lately; nothing if one is away or not migrated."""
    try:
        status = orchestrator.hot.status()
        recent = [loss for loss in losses(orchestrator.hot, orchestrator.engine) if is_recent(loss)]
    except (ServerUnavailable, NotMigrated):  # the checks of that server say so
        return
    if status.recovering:
        found = "all that is live is being saved again; nothing is restored until that is done"
        yield checked(Topic.LOSSES, found, fail=_SETTLING)
    elif status.comparing:
        found = "a server went back in time or has started: all that is live is being compared"
        yield checked(Topic.LOSSES, found, warn=_SETTLING)
    elif not recent:
        yield checked(Topic.LOSSES, "no server went back in time in the last seven days")
    for loss in recent:
        yield check_loss(loss)


def check_loss(loss: Loss) -> Check:
    """Warn of a loss if it leaves something to do."""
    advice = _advice(loss)
    done = "" if advice else " Nothing is left to do; this is shown for seven days."
    return checked(Topic.LOSSES, f"{_found(loss)}{done}", warn=advice)


def _found(loss: Loss) -> str:
    found = describe_loss(loss)
    for what, characters in (("not live", loss.not_live), ("left unsaved", loss.left)):
        if characters:
            found += f" Who is {what}: {listed(sorted(map(_char_id, characters)))}."
    return found


def _advice(loss: Loss) -> str:
    advice = {
        "see who is left and why, and save them: `statesync recover`": loss.left,
        "see what cannot be saved: `statesync quarantine list`": loss.quarantined,
        "see who is at an older state now: `statesync recover`": loss.not_live,
        "see what players have lost: `statesync conflicts list`": loss.reverted,
    }
    needed = [what for what, characters in advice.items() if characters]
    if not loss.recovered_at:
        needed.insert(0, _SETTLING)
    if loss.counts_anew and _age(loss) < _LOADED_FOR:
        needed.append(_LOADING)
    return "; ".join(needed)
