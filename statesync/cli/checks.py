"""Owns what one check of the doctor says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["COLOURS", "Check", "CheckStatus", "checked"]


class CheckStatus(StrEnum):
    """How well a check went."""

    OK = "ok"
    """As it should be."""
    WARN = "warn"
    """It works, but a fault may cost data or time."""
    FAIL = "fail"
    """It does not work, or data is at risk now."""


COLOURS = {CheckStatus.OK: "green", CheckStatus.WARN: "yellow", CheckStatus.FAIL: "red"}


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found; ``do`` is empty if it is ``ok``."""

    check: str
    status: CheckStatus
    found: str
    do: str = ""


def checked(name: str, found: str, *, warn: str = "", fail: str = "") -> Check:
    """Return a check that is ok unless one of ``warn`` and ``fail`` says what to do."""
    status = CheckStatus.FAIL if fail else CheckStatus.WARN if warn else CheckStatus.OK
    return Check(name, status, found, fail or warn)
