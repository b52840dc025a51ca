"""Owns how often something may be tried: some times at once, and then now and then."""

from __future__ import annotations

import math
import threading
import time

__all__ = ["REST_SECONDS", "TRIES", "Tries"]

TRIES = 10
"""So many at once for each key, and then one in each rest."""
REST_SECONDS = 6.0
_KEPT_KEYS = 10_000


class Tries:
    """Counts what is tried, by a key; safe to share by threads."""

    def __init__(self) -> None:
        self._tries: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def may_try(self, key: str) -> bool:
        """Count an attempt; False if there were too many."""
        now = time.monotonic()
        with self._lock:
            tried, at = self._tries.pop(key, (0.0, now))
            tried = max(0.0, tried - (now - at) / REST_SECONDS)
            is_one_more = tried + 1 <= TRIES
            while len(self._tries) >= _KEPT_KEYS:
                del self._tries[next(iter(self._tries))]
            self._tries[key] = (tried + is_one_more, now)
        return is_one_more

    def rest_seconds(self, key: str) -> int:
        """Return after how many seconds there may be one more."""
        with self._lock:
            tried, at = self._tries.get(key, (0.0, 0.0))
        waited = time.monotonic() - at
        return max(1, math.ceil((tried + 1 - TRIES) * REST_SECONDS - waited))
