"""Owns the messages that workers send each other: what they carry, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap
from typing import Annotated, Any

import msgspec
from kombu.exceptions import OperationalError
from msgspec import Meta

from statesync.errors import BrokerUnavailable, InvalidInput
from statesync.hot.commands.claims import Claim
from statesync.settings import Settings
from statesync.worker.app import app
from statesync.worker.names import TaskName, of_realm
from statesync.worker.rows import about, characters

__all__ = ["Outbox", "read_claims", "read_cursor"]


_Positive = Annotated[int, Meta(gt=0, le=2**63 - 1)]
_Pairs = list[tuple[_Positive, _Positive]]


class Outbox:
    """Sends the messages of one realm, or of the one world; all raise BrokerUnavailable."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def send(self, task: TaskName, *args: Any, subject: int | str = "") -> None:
        """Send a message that expires with the lease and keeps no result.

        ``subject`` is what Flower and logs show for the arguments, as ``about`` takes it.
        """
        shown: dict[str, Any] = {"argsrepr": about(task, self._settings, subject)}
        try:
            app.tasks[task].apply_async(
                args,
                of_realm(self._settings),
                expires=self._settings.lease_seconds,
                ignore_result=True,
                **shown,
            )
        except OperationalError as error:
            raise BrokerUnavailable(f"the broker: {error}") from None

    def each(self, claims: Sequence[Claim]) -> None:
        """Send a task for each claim."""
        for claim in claims:
            self.send(TaskName.BACKUP_FULL_STATE, claim.char_id, claim.token, subject=claim.char_id)

    def batch(self, claims: Sequence[Claim]) -> None:
        """Send one task for all claims."""
        pairs = [list(claim) for claim in claims]
        self.send(TaskName.BACKUP_BATCH, pairs, subject=characters(len(claims)))


def read_claims(pairs: Sequence[Sequence[int]]) -> list[Claim]:
    """Return the claims of a message, ``[[char_id, token], …]``. Raises InvalidInput."""
    try:
        claims = msgspec.convert(pairs, _Pairs)
    except msgspec.ValidationError:
        raise InvalidInput(
            "claims are a list of [char_id, token], two positive integers each"
        ) from None
    return [*starmap(Claim, claims)]


def read_cursor(cursor: int) -> int:
    """Return the cursor of a message, if it is one of Redis'. Raises InvalidInput."""
    if type(cursor) is not int or not 0 <= cursor < 2**64:
        raise InvalidInput("cursor must be an integer from 0 to 2^64-1")
    return cursor
