"""Owns the name of every Redis key."""

from __future__ import annotations

from dataclasses import dataclass

from statesync.state.references import SessionRef

__all__ = ["Keys"]


@dataclass(frozen=True)
class Keys:
    """The keys under one prefix. Ids are validated before they get here."""

    prefix: str = ""

    def core(self, char_id: int) -> str:
        """HASH: the persistent core of a character."""
        return f"{self.prefix}ac:{char_id}"

    def session(self, session_type: str, session_id: str) -> str:
        """HASH: a temporary session."""
        return self.prefix + SessionRef(session_type, session_id).key

    def session_log(self, session_type: str, session_id: str) -> str:
        """LIST: the log of a session; it is only appended to."""
        return f"{self.session(session_type, session_id)}:log"

    def tombstone(self, item: int | str) -> str:
        """STRING, expires: the version at which a character or session was last evicted."""
        return f"{self.prefix}statesync:evicted:{item}"

    def tie(self, tie: str) -> str:
        """HASH: what was changed together; member to the token of the last change that tied it."""
        return f"{self.prefix}statesync:tie:{tie}"

    def idempotency(self, token: str) -> str:
        """STRING, expires: the answer to a change, in case it is sent again."""
        return f"{self.prefix}statesync:once:{token}"

    def staged(self, name: str) -> str:
        """LIST, expires: a log that is being restored, not yet under its own key."""
        return f"{self.prefix}statesync:staged:{name}"

    @property
    def dirty(self) -> str:
        """SET: characters with unsaved changes."""
        return f"{self.prefix}dirty_accounts"

    @property
    def claimed(self) -> str:
        """ZSET: char_id to lease deadline in µs, which is also the claim's token."""
        return f"{self.prefix}dirty_accounts:claimed"

    @property
    def since(self) -> str:
        """ZSET: char_id to ms of the first unsaved change."""
        return f"{self.prefix}dirty_accounts:since"

    @property
    def sweep(self) -> str:
        """HASH: how many passes over the dirty set are complete, and the cursor of this one."""
        return f"{self.prefix}statesync:sweep"

    @property
    def quarantine(self) -> str:
        """HASH: char_id to JSON of why it could not be saved."""
        return f"{self.prefix}dirty_accounts:quarantine"

    @property
    def stats(self) -> str:
        """HASH: counters shared by all processes."""
        return f"{self.prefix}statesync:stats"

    @property
    def histograms(self) -> str:
        """HASH: histograms shared by all processes, as ``histograms.py`` writes them."""
        return f"{self.prefix}statesync:histograms"

    @property
    def heartbeat(self) -> str:
        """STRING: ms at which the last sweep of the schedule came in."""
        return f"{self.prefix}statesync:heartbeat"

    @property
    def troubles(self) -> str:
        """HASH, expires: ``server:work`` to JSON of why a server refuses workers that work now."""
        return f"{self.prefix}statesync:trouble"

    @property
    def scrubbed(self) -> str:
        """STRING: ms at which the last scrub came to its end."""
        return f"{self.prefix}statesync:scrubbed"

    @property
    def seals(self) -> str:
        """HASH: char_id or session id to the seals of its snapshots since the acknowledged one."""
        return f"{self.prefix}statesync:seals"

    @property
    def nonces(self) -> str:
        """HASH: char_id to the nonces of durable changes since its last acknowledged snapshot."""
        return f"{self.prefix}statesync:nonces"

    @property
    def dropped(self) -> str:
        """HASH: what a revert took out of play, until it is recorded in PostgreSQL."""
        return f"{self.prefix}statesync:dropped"

    def dropped_copy(self, dropped_id: str, name: str) -> str:
        """HASH or LIST: a core, session or log that a revert took out of play."""
        return f"{self.prefix}statesync:dropped:{dropped_id}:{name}"

    @property
    def servers(self) -> str:
        """HASH: the counter of sweeps, and what Redis remembers of PostgreSQL."""
        return f"{self.prefix}statesync:servers"

    @property
    def reverted(self) -> str:
        """Channel: the characters and sessions that a revert has set to their rows."""
        return f"{self.prefix}statesync:reverted"
