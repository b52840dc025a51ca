"""Owns what a save says of a change that somebody waits for: it is in PostgreSQL, or why not.

The nonce tells: the transaction that saves a change writes its nonce. A bare version only compares,
so after a loss it tells nothing: other changes may have passed it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from statesync.durable.losses import Loss, Side
from statesync.errors import InvalidInput
from statesync.lifecycle.orchestrator import BackupReport
from statesync.state.fields import check_version
from statesync.state.outcomes import BackupOutcome
from statesync.state.receipts import RETENTION_SECONDS, Receipt, made_at

__all__ = ["Known", "Verdict", "check_receipt", "judge", "needs_row", "why_unknown"]

_SAVED = (BackupOutcome.SAVED, BackupOutcome.UNCHANGED)
_ELSEWHERE = (BackupOutcome.SUPERSEDED, BackupOutcome.RELEASED)
"""Another worker saves the character, or a later sweep: it is worth another try."""
_DOUBTFUL = (*_ELSEWHERE, BackupOutcome.MISSING)
"""Outcomes that do not tell which version PostgreSQL has; the row does."""

_FORGOTTEN = "a server has forgotten the change"


@dataclass(frozen=True, slots=True)
class Known:
    """What PostgreSQL says after a save."""

    nonces: Collection[str] = ()
    """Those that it has, of those that are waited for."""
    versions: Mapping[int, int] = field(default_factory=dict)
    """Of the rows that had to be looked at, by character."""
    losses: Sequence[Loss] = ()
    """The times that a server went back, if that was looked at and within the retention."""


class Verdict(NamedTuple):
    """Why a change is not known to be in PostgreSQL; without any reason it is there."""

    failed: str | None = None
    retry: str | None = None
    """The reason if another try may help."""


def check_receipt(char_id: int, receipt: object) -> Receipt:
    """Return the receipt of a change, given one or a version. Raises InvalidInput."""
    if not isinstance(receipt, Receipt):
        return Receipt(check_version(receipt), char_id)
    if receipt.char_id not in (None, char_id):
        raise InvalidInput(f"the receipt is of character {receipt.char_id}, not of {char_id}")
    if receipt.char_id is None and receipt.nonce is None:
        raise InvalidInput(
            f"{receipt} is the version of a session, which tells nothing of character {char_id}: "
            "make the change with receipt=True"
        )
    return receipt


def needs_row(receipt: Receipt, report: BackupReport) -> bool:
    """Return whether only the character's row tells if a version is in PostgreSQL."""
    return not receipt.nonce and report.outcome in _DOUBTFUL


def judge(receipt: Receipt, reports: Collection[BackupReport], known: Known) -> Verdict:
    """Return what a save of all characters of a change says of it.

    They are one group: one failure is all.
    """
    if receipt.nonce:
        return _judge_by_nonce(receipt.nonce, reports, known)
    failed, retry = None, None
    for report in reports:
        reason = _why_not_durable(report, receipt, known.versions.get(report.char_id))
        if reason and report.outcome in _ELSEWHERE:
            retry = retry or reason
        elif reason:
            failed = failed or reason
    if not (receipt or failed or retry) and _none_is_loaded(reports):
        failed = "none of them is loaded"
    if receipt and not (failed or retry) and known.losses:
        found = _found(known.losses[-1])
        failed = (
            f"unknown: a server went back in time ({found}), and version {receipt} may be that of "
            "another change; make changes with receipt=True"
        )
    return Verdict(failed, retry)


def _judge_by_nonce(nonce: str, reports: Collection[BackupReport], known: Known) -> Verdict:
    if nonce in known.nonces:
        return Verdict()
    failed, retry = None, None
    for report in reports:
        if report.outcome in (*_ELSEWHERE, BackupOutcome.STALE):
            retry = retry or _saved_elsewhere(report)
        elif report.outcome not in (*_SAVED, BackupOutcome.MISSING):
            failed = failed or _not_saved(report)
    if failed or retry:
        return Verdict(failed, retry)
    if unknown := why_unknown(nonce, known.losses):
        return Verdict(unknown)
    none_is_loaded = ": none of its characters is loaded" if _none_is_loaded(reports) else ""
    return Verdict(_FORGOTTEN + none_is_loaded)


def why_unknown(nonce: str, losses: Iterable[Loss]) -> str | None:
    """Return why it tells nothing of a change that PostgreSQL lacks its nonce, if so."""
    if time.time() - made_at(nonce) > RETENTION_SECONDS:
        return "unknown: PostgreSQL keeps the receipts of seven days"
    for loss in losses:
        if loss.side is not Side.REDIS and made_at(nonce) < loss.found_at.timestamp():
            found = _found(loss)
            return f"unknown: PostgreSQL went back in time ({found}), with the receipts it had"
    return None


def _found(loss: Loss) -> str:
    return f"found {loss.found_at:%Y-%m-%d %H:%M:%S%z}"


def _none_is_loaded(reports: Collection[BackupReport]) -> bool:
    return all(report.outcome is BackupOutcome.MISSING for report in reports)


def _why_not_durable(report: BackupReport, version: int, row_version: int | None) -> str | None:
    """Return why a version is not known to be in PostgreSQL; None if it is there.

    ``row_version`` is that of the row, if the outcome does not tell.
    """
    char_id, outcome = report.char_id, report.outcome
    if outcome in (*_SAVED, BackupOutcome.STALE):
        if (report.version or 0) >= version:
            return None
        return f"character {char_id} never had version {version}; it has {report.version}"
    is_missing = outcome is BackupOutcome.MISSING
    if outcome in _DOUBTFUL and row_version is not None and (version or is_missing):
        # A character that is not loaded any more was saved before it was evicted.
        if row_version >= version:
            return None
    elif is_missing and not version:
        return None
    return _saved_elsewhere(report) if outcome in _ELSEWHERE else _not_saved(report)


def _saved_elsewhere(report: BackupReport) -> str:
    return f"another worker saves character {report.char_id}"


def _not_saved(report: BackupReport) -> str:
    reason = report.error or "nothing of it is saved"
    return f"character {report.char_id} is {report.outcome}: {reason}"
