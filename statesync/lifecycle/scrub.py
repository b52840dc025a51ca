"""Owns the scrub: the comparison of everything live with its rows; what differs is marked.

A mark is missing if a game wrote to Redis and did not set it, died before it did, or deleted it.
And nothing marks what differs because a server went back in time. Only heads are compared: versions
and seals. A scrub is safe to run twice and at any time: it only marks, and the backup that follows
decides under the rows' locks which side is right.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from statesync import durable
from statesync.durable import database
from statesync.durable.fence import RowHead
from statesync.hot.commands.operators import Found
from statesync.hot.commands.servers import CoreHead
from statesync.hot.store import HotStore, unwrap
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.state.fields import MAX_ID, listed
from statesync.state.references import SessionRef

__all__ = [
    "PAGE_KEYS",
    "PAUSE_SECONDS",
    "Difference",
    "ScrubPage",
    "differences",
    "mark_differences",
    "scrub_page",
    "scrub_pages",
]

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.01
"""Between two pages, so that Redis belongs to the game: at most some 20,000 keys a second."""
PAGE_KEYS = 200
"""Small enough that no script holds Redis for more than about a millisecond."""


@dataclass(frozen=True, slots=True)
class ScrubPage:
    """What one page contained."""

    cursor: int
    """Where the next page starts; 0 at the end."""
    keys: int
    """How many keys Redis has in all."""
    peeked: int
    """About how many keys this page covered."""
    characters: int
    sessions: int
    marked: int
    """Characters that were not as their rows, without a mark, and are dirty now."""

    def counts(self) -> dict[str, int]:
        """Return what a scrub adds up over its pages: characters, sessions, marked."""
        return {"characters": self.characters, "sessions": self.sessions, "marked": self.marked}


def scrub_pages(orchestrator: GameStateOrchestrator, cursor: int = 0) -> Iterator[ScrubPage]:
    """Scrub page by page from ``cursor`` to the end, with a pause before each next page.

    Notes in Redis that the end is reached. Raises as ``scrub_page`` does.
    """
    while True:
        page = scrub_page(orchestrator, cursor)
        yield page
        cursor = page.cursor
        if cursor == 0:
            orchestrator.hot.note_scrub()
            return
        time.sleep(PAUSE_SECONDS)


def scrub_page(orchestrator: GameStateOrchestrator, cursor: int = 0) -> ScrubPage:
    """Mark the characters of one page that are not as their rows and have no mark.

    If it is a session that differs, the characters that point at it are marked. Raises
    ServerUnavailable.
    """
    found = orchestrator.hot.scan(cursor, count=PAGE_KEYS)
    marked = mark_differences(orchestrator.hot, differences(orchestrator, found))
    return ScrubPage(
        cursor=found.cursor,
        keys=found.keys,
        peeked=PAGE_KEYS,
        characters=len(found.char_ids),
        sessions=len(found.sessions),
        marked=marked,
    )


class Difference(NamedTuple):
    """A character whose core, or session, is not as its row."""

    char_id: int
    session: SessionRef | None = None
    """The session that differs, if it is one: the character is a participant."""
    head: CoreHead | None = None
    """Of the core, if it is the one that differs."""
    has_row: bool = False
    """Whether the core has a row, which is not deleted."""


def differences(orchestrator: GameStateOrchestrator, found: Found) -> list[Difference]:
    """Return what of a page is not as its rows, changed since the last save or not.

    Raises ServerUnavailable.
    """
    if not found.char_ids and not found.sessions:
        return []
    # Redis first. What is saved in between looks different; its mark is refused.
    live = orchestrator.hot.heads(found.char_ids, found.sessions)
    with database.transaction(orchestrator.engine) as connection:
        rows = durable.heads.of_characters(connection, live.cores)
        session_rows = {}
        if live.sessions:
            ids = [ref.id for ref in live.sessions]
            session_rows = durable.heads.of_sessions(connection, ids)
    differing = [
        Difference(char_id, head=head, has_row=char_id in rows and not rows[char_id].is_ended)
        for char_id, head in live.cores.items()
        if head.saved_version != head.version
        or not _is_as_row(head.version, head.seals, rows.get(char_id))
    ]
    for ref, session in live.sessions.items():
        if not _is_as_row(session.version, session.seals, session_rows.get(ref.id)):
            differing += [
                Difference(char_id, ref) for char_id in _ids_in(session.participants or b"")
            ]
    return differing


def mark_differences(hot: HotStore, differing: Sequence[Difference]) -> int:
    """Mark the characters that have no mark yet; return how many these were."""
    replies = hot.run_many(
        [hot.commands.mark_unsaved(char_id, ref, head=head) for char_id, ref, head, _ in differing]
    )
    marked = [
        char_id for (char_id, *_), reply in zip(differing, replies, strict=True) if unwrap(reply)
    ]
    if marked:
        log.warning(
            "characters %s were not as their rows and had no mark: they are dirty now",
            listed(marked),
            extra={"char_ids": marked},
        )
        hot.count({"scrubbed": len(marked)})
    return len(marked)


def _is_as_row(version: bytes | None, seals: bytes | None, row: RowHead | None) -> bool:
    """Return whether PostgreSQL holds what Redis takes for saved, in the same history.

    A row without a seal, or a core without one, is of a worker from before seals: there are only
    versions to compare.
    """
    if row is None or row.is_ended or version != str(row.version).encode():
        return False
    return not row.is_sealed or seals is None or str(row.seal).encode() in seals.split()


def _ids_in(participants: bytes) -> list[int]:
    """Return the characters that an undecoded list of participants names."""
    numbers = map(int, dict.fromkeys(re.findall(rb"\d{1,19}", participants)))
    return [number for number in numbers if 1 <= number <= MAX_ID]
