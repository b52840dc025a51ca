"""Owns the order in which a worker looks for messages in its queues, with Redis as the broker.

RabbitMQ needs none: it hands out messages of all queues side by side.
"""

from __future__ import annotations

from collections.abc import Iterable

from statesync.worker.names import QueueName

__all__ = ["Turns"]

_SHORT = (QueueName.RESTORE, QueueName.SYNC)
_IN_A_ROW = 10
"""After so many short messages a batch comes first: a flood of logins must not stop the saves."""


class Turns:
    """Logins and sweeps first, then batches; and the queues of a kind in turn, realm by realm.

    Strictly in turn, a short message would wait for a batch each time, and sweeps would expire as
    long as one realm has a backlog. It has the methods of kombu's ``round_robin_cycle``.
    """

    def __init__(self, queues: Iterable[str] = ()) -> None:
        self._queues = list(queues)
        self._short_in_a_row = 0

    def update(self, queues: Iterable[str]) -> None:
        """Begin anew with these queues."""
        self._queues = list(queues)

    def consume(self, count: int) -> list[str]:
        """Return the first queues in the order of their turns."""
        is_batch_first = self._short_in_a_row >= _IN_A_ROW
        return sorted(self._queues, key=lambda name: _is_short(name) == is_batch_first)[:count]

    def rotate(self, last_used: str) -> str:
        """Take in which queue a message came from: its next turn is the last of its kind."""
        self._short_in_a_row = self._short_in_a_row + 1 if _is_short(last_used) else 0
        if last_used in self._queues:
            self._queues.remove(last_used)
            self._queues.append(last_used)
        return last_used


def _is_short(queue: str) -> bool:
    return queue.endswith(_SHORT)
