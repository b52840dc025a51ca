"""Owns how operators are told that a server refuses the work of workers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from statesync.hot.commands.troubles import Server, Trouble, Work
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.troubles import SERVER_NAMES
from statesync.observe.check import Check, Topic, checked
from statesync.settings import Settings

__all__ = ["check_troubles", "describe_trouble"]

_WORDS = {
    Work.BACKUP: "saves",
    Work.RESTORE: "loads",
    Work.SWEEP: "sweeps",
    Work.CLAIM: "claims of sweeps",
    Work.SCRUB: "scrubs",
}
_IS_FULL = ("No space left", "out of memory", "cannot save to its disk")
_LACKS_RIGHT = ("permission", "GRANT ", "ACL SETUSER")


def describe_trouble(server: Server, trouble: Trouble) -> str:
    """Say in one line what a server refuses, why, and since when; the reason is not escaped."""
    works = ", ".join(words for work, words in _WORDS.items() if work in trouble.works)
    since, last = (
        datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        for ms in (trouble.since_ms, trouble.last_ms)
    )
    return f"{SERVER_NAMES[server]} refuses {works} since {since}, last at {last}: {trouble.error}"


def check_troubles(orchestrator: GameStateOrchestrator, _: Settings) -> Iterator[Check]:
    """Check that no server refuses the work of workers, by what they have noted in Redis."""
    troubles = orchestrator.hot.troubles()
    for server, trouble in sorted(troubles.items()):
        found = describe_trouble(server, trouble)
        yield checked(Topic.TROUBLES, found, fail=_advice(trouble.error), subject=server)
    if not troubles:
        yield checked(Topic.TROUBLES, "no server refuses the work of workers")


def _advice(error: str) -> str:
    if any(words in error for words in _IS_FULL):
        return "make room on it; what is unsaved waits in Redis, and is saved then by itself"
    if any(words in error for words in _LACKS_RIGHT):
        return "give our user there the right that is missing"
    return "see what the checks of this server say, and its log"
