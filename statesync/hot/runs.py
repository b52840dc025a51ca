"""Owns Commands on their way: what is sent next, and what is saved before a result counts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from statesync.errors import GroupTooLarge, InvalidInput, StatesyncError
from statesync.hot.command import Command
from statesync.hot.exchange import LEAST_SECONDS

__all__ = ["Committer", "Run"]


class Committer(Protocol):
    """Saves characters for operations that wait for it; a ``GameStore`` has one."""

    seconds: float
    """How long an operation waits."""

    def submit(
        self, char_ids: Sequence[int], nonce: str | None = None, seconds: float | None = None
    ) -> Future[None]:
        """Save characters from now on; the Future is done when PostgreSQL has their change.

        Without a nonce it is done when they are saved. It fails with NotDurable.
        """
        ...


class Run:
    """Some Commands on their way, until none is left to send."""

    def __init__(self, todo: Sequence[Command[Any]], committer: Committer | None) -> None:
        if committer is None and any(command.saves is not None for command in todo):
            raise InvalidInput("durable=True needs a GameStore: a HotStore knows only Redis")
        self.committer = committer
        self._durable_until = math.inf
        """When an operation that is to be durable has waited long enough, for both servers."""
        if committer and any(command.saves is not None for command in todo):
            self._durable_until = time.monotonic() + committer.seconds
        self.results: list[Any] = [None] * len(todo)
        self.left = dict(enumerate(todo))
        self.saving: dict[int, Future[None]] = {}
        """By position: what is saved before the result counts."""

    def take(self, results: Sequence[Any], told: Callable[[Command[Any], Any], Any]) -> None:
        """Take the results in, as ``told``; what is ``left`` is to be sent next, or once more."""
        again = {}
        for (i, command), raw in zip(self.left.items(), results, strict=True):
            self.results[i] = result = told(command, raw)
            if isinstance(result, Command):
                again[i] = result
            elif self.committer and isinstance(result, GroupTooLarge):
                again[i] = command
                self.saving[i] = self.committer.submit(result.char_ids)
            elif self.committer and command.saves is not None and not _is_refused(result):
                seconds = self._durable_until - time.monotonic()
                self.saving[i] = self.committer.submit(command.saves, command.nonce, seconds)
        self.left = again

    def deadline(self, seconds: float) -> float:
        """Return when Redis has to have answered, which may take ``seconds`` at the most."""
        now = time.monotonic()
        return max(now + LEAST_SECONDS, min(now + seconds, self._durable_until))

    def saved(self, i: int, error: StatesyncError | None) -> None:
        """Take in that what a Command waited for is saved, or why not."""
        del self.saving[i]
        if error:  # a change that a tie was too large for stays refused
            self.results[i] = self.results[i] if self.left.pop(i, None) else error


def _is_refused(result: object) -> bool:
    return isinstance(result, StatesyncError)
