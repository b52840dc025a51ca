"""Owns how a batch of snapshots is committed: in which transactions, and what if one fails.

The measure is bytes as well as characters. A batch that PostgreSQL refuses, or closes the
connection on, is halved until the culprit is alone, so that the others are saved.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from statesync import durable
from statesync.durable import database
from statesync.durable.results import Raced
from statesync.errors import CorruptState
from statesync.hot.command import packed
from statesync.hot.histograms import observe_save
from statesync.lifecycle import groups
from statesync.lifecycle.failpoints import failpoint
from statesync.lifecycle.snapshots import GroupResult, Snapshot
from statesync.sessions.base import SessionOrchestrator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

__all__ = ["Commit", "ConnectionLost", "noting_loss"]

log = logging.getLogger(__name__)

_TRANSACTION_BYTES = 8 * 1024 * 1024
"""About how much one transaction carries: text in SQL takes several times as much memory."""


_RACE_ROUNDS = 5
"""How many times a save begins again because another worker has made its row meanwhile."""
_NOT_WRITTEN = "PostgreSQL leaves the row as it is, without an error: has it a trigger or a rule?"


class ConnectionLost(Exception):
    """PostgreSQL closed the connection during a save."""


class Commit:
    """Saves snapshots and notes in each what became of it: its ``result``, or why ``corrupt``."""

    def __init__(
        self,
        engine: Engine,
        types: Mapping[str, SessionOrchestrator],
        batch_size: int,
        *,
        key_prefix: str,
        deleting: Collection[int],
    ) -> None:
        self._engine = engine
        self._key_prefix = key_prefix
        self._deleting = deleting
        self._types = types
        self._bytes_per_character = _TRANSACTION_BYTES // batch_size
        self._observed: Counter[str] = Counter()

    def run(self, snapshots: Sequence[Snapshot], *, wait: bool) -> None:
        """Save snapshots, up to a batch of characters, or some MiB, in a transaction.

        A locked row holds up no other: only with ``wait`` is it waited for, when the others are
        acknowledged. Raises ServerUnavailable.
        """
        undecided = (snapshot for snapshot in snapshots if snapshot.result is None)
        valid = [snapshot for snapshot in undecided if not snapshot.corrupt]
        for part in packed(valid, self._size, _TRANSACTION_BYTES):
            self._commit(part, wait=wait)

    def take_observed(self) -> Counter[str]:
        """Return what the transactions since the last call add to the histograms."""
        observed, self._observed = self._observed, Counter()
        return observed

    def _size(self, snapshot: Snapshot) -> int:
        """Return how much of a transaction a snapshot fills."""
        return max(snapshot.bytes(), len(snapshot.characters) * self._bytes_per_character)

    def _commit(
        self, snapshots: Sequence[Snapshot], *, wait: bool, short_wait: bool = False
    ) -> None:
        """Save snapshots in one transaction; if PostgreSQL refuses it, find out because of which.

        After one wait for a lock in vain, ``short_wait`` makes the others short.
        """
        try:
            results = self._write_unless_raced(snapshots, wait=wait, short_wait=short_wait)
        except database.Rejected as error:
            self._isolate(snapshots, error, wait=wait, short_wait=short_wait)
        except ConnectionLost as error:
            database.ping(self._engine)  # an outage is no snapshot's fault
            self._isolate_lost(snapshots, error, wait=wait, short_wait=short_wait)
        else:
            _set_results(snapshots, results)

    def _write_unless_raced(
        self, snapshots: Sequence[Snapshot], *, wait: bool, short_wait: bool
    ) -> list[GroupResult]:
        """Write as ``_write``, and begin again if another worker has made a row meanwhile.

        Raises Rejected if that never ends: something else keeps the row from being written.
        """
        for _ in range(_RACE_ROUNDS):
            with suppress(Raced):
                return self._write(snapshots, wait=wait, short_wait=short_wait)
        raise database.Rejected(_NOT_WRITTEN, locked=False)

    def _write(
        self, snapshots: Sequence[Snapshot], *, wait: bool, short_wait: bool
    ) -> list[GroupResult]:
        """Run one transaction. Raises Raced, Rejected, ConnectionLost, or ServerUnavailable."""
        began = time.perf_counter()
        with database.transaction(self._engine) as connection, noting_loss():
            if short_wait:
                connection.exec_driver_sql("SET LOCAL lock_timeout = '100ms'")
            results = groups.save(
                connection, snapshots, self._types, wait=wait, deleting=self._deleting
            )
            saved = zip(snapshots, results, strict=True)
            if laid := [group.laid_at for group, result in saved if group.laid_at and result.saved]:
                durable.servers.remember_redis(connection, self._key_prefix, max(laid))
            failpoint("written")
            _set_in_doubt(snapshots, True)  # until PostgreSQL answers to the commit
        characters = sum(len(snapshot.characters) for snapshot in snapshots)
        self._observed += observe_save(characters, time.perf_counter() - began)
        failpoint("committed")
        return results

    def _isolate(
        self,
        snapshots: Sequence[Snapshot],
        error: database.Rejected,
        *,
        wait: bool,
        short_wait: bool,
    ) -> None:
        """Save the two halves of a refused batch, so that in the end only the culprit is refused.

        Note the reason if one snapshot is left, or if a lock was waited for already.
        """
        _set_in_doubt(snapshots, False)
        if error.locked and (wait or len(snapshots) == 1):
            for snapshot in snapshots:
                snapshot.postpone()
        elif len(snapshots) == 1:
            snapshots[0].corrupt = CorruptState(snapshots[0].anchor, "", str(error))
        else:
            for half in _halves(snapshots):
                self._commit(half, wait=wait, short_wait=short_wait or error.locked)

    def _isolate_lost(
        self,
        snapshots: Sequence[Snapshot],
        error: ConnectionLost,
        *,
        wait: bool,
        short_wait: bool,
    ) -> None:
        """Save the two halves of a batch that PostgreSQL closed the connection on.

        One snapshot is tried once more: a restart of PostgreSQL closes connections as well.
        """
        log.warning(
            "PostgreSQL closed the connection on a save of %d: %s",
            len(snapshots),
            error,
            extra={"server": "postgresql", "error": str(error)},
        )
        if len(snapshots) > 1:
            for half in _halves(snapshots):
                self._commit(half, wait=wait, short_wait=short_wait)
            return
        try:
            results = self._write_unless_raced(snapshots, wait=wait, short_wait=short_wait)
            _set_results(snapshots, results)
        except ConnectionLost:
            database.ping(self._engine)
            reason = f"PostgreSQL closes the connection when it is saved: {error}"
            snapshots[0].corrupt = CorruptState(snapshots[0].anchor, "", reason)
        except database.Rejected as rejected:
            self._isolate(snapshots, rejected, wait=wait, short_wait=short_wait)


def _set_results(snapshots: Sequence[Snapshot], results: Sequence[GroupResult]) -> None:
    """Note what became of snapshots: whatever ends this worker meanwhile, none is withdrawn."""
    for snapshot, result in zip(snapshots, results, strict=True):
        snapshot.result = result
    _set_in_doubt(snapshots, False)


def _set_in_doubt(snapshots: Sequence[Snapshot], in_doubt: bool) -> None:
    for snapshot in snapshots:
        snapshot.in_doubt = in_doubt


def _halves(snapshots: Sequence[Snapshot]) -> tuple[Sequence[Snapshot], Sequence[Snapshot]]:
    middle = len(snapshots) // 2
    return snapshots[:middle], snapshots[middle:]


@contextmanager
def noting_loss() -> Iterator[None]:
    """Raise ConnectionLost if an error of PostgreSQL in a block has ended the connection."""
    try:
        yield
    except DBAPIError as error:
        if error.connection_invalidated:
            raise ConnectionLost(str(error.orig).strip().split("\n")[0]) from error
        raise
