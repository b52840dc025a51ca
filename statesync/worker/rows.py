"""Owns the words of a task's row in Flower and of its lines in the log; never a player's values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from statesync.settings import Settings
from statesync.state.fields import counted, printable
from statesync.state.outcomes import BackupOutcome, RestoreOutcome
from statesync.worker.names import TaskName

__all__ = ["Told", "about", "characters"]

_LONGEST_NAME = 64
_FIRST = (
    *(BackupOutcome.SAVED, RestoreOutcome.RESTORED),
    *(BackupOutcome.QUARANTINED, BackupOutcome.CONFLICT, BackupOutcome.MISSING),
    RestoreOutcome.FAILED,
)
"""What has to be seen even in a narrow column, in this order; other outcomes follow."""


_SUBJECTS = {
    TaskName.SYNC_DIRTY: "all that is dirty",
    TaskName.SYNC_SLICE: "what is due",
    TaskName.SCRUB: "everything live",
}


def about(task: TaskName, settings: Settings, subject: int | str = "") -> str:
    """Return what stands for a message's arguments: its subject, and the realm if there is one.

    A number is the id of a character. A sweep and a scrub have a subject of their own.
    """
    words = f"character {subject}" if isinstance(subject, int) else subject or _SUBJECTS[task]
    return f"{words}, realm {settings.realm}" if settings.realm else words


def characters(count: int) -> str:
    """Return a number of characters in words."""
    return counted(count, "character", "characters")


class Told(Mapping[str, Any]):
    """A task's result, which Celery's events and log show in words."""

    def __init__(self, task: TaskName, result: Mapping[str, Any]) -> None:
        self._task = task
        self._result = result

    def __getitem__(self, name: str) -> Any:
        return self._result[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._result)

    def __len__(self) -> int:
        return len(self._result)

    def __json__(self) -> dict[str, Any]:
        """Return what a message carries: kombu asks for it."""
        return dict(self._result)

    def __repr__(self) -> str:
        match self._task:
            case TaskName.BACKUP_FULL_STATE | TaskName.RESTORE_FULL_STATE:
                return _of_character(self._result)
            case TaskName.BACKUP_BATCH | TaskName.RESTORE_BATCH:
                return _of_characters(self._result)
            case TaskName.SYNC_DIRTY | TaskName.SYNC_SLICE:
                return _of_sweep(self._result)
            case TaskName.SCRUB:
                return _of_scrub(self._result)


def _of_character(report: Mapping[str, Any]) -> str:
    field = printable(report.get("field") or "")[:_LONGEST_NAME]
    return f"character {report['char_id']}: {report['outcome']}" + (f" ({field})" if field else "")


def _of_characters(counts: Mapping[str, int]) -> str:
    names = sorted(counts, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    told = ", ".join(f"{counts[name]} {name}" for name in names)
    return f"{characters(sum(counts.values()))}: {told}" if told else characters(0)


def _of_sweep(report: Mapping[str, Any]) -> str:
    told = f"{characters(report['claimed'])} claimed, {report['left']} left"
    if report["requeued"]:
        told += f", {report['requeued']} of ended leases dirty again"
    return told + (", comparing everything live" if report["comparing"] else "")


def _of_scrub(counts: Mapping[str, int]) -> str:
    told = f"{characters(counts.get('characters', 0))} compared, {counts.get('marked', 0)} marked"
    return told + (", goes on" if counts["cursor"] else "")
