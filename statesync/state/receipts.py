"""Owns what a change returns: its version, and the nonce by which PostgreSQL knows the change."""

from __future__ import annotations

import time
from typing import Self
from uuid import UUID, uuid4

from statesync.errors import InvalidInput
from statesync.state.fields import shown

__all__ = ["RETENTION_SECONDS", "Receipt", "made_at", "new_nonce"]

RETENTION_SECONDS = 7 * 24 * 60 * 60
"""How long PostgreSQL keeps the nonces of durable changes, and answers by them."""


class Receipt(int):
    """The version that a change returned: an int, with what tells this change from any other.

    Build one from what was kept of it: ``Receipt(version, char_id, nonce)``.
    """

    char_id: int | None
    """The character whose version it is; None if it is a session's."""
    nonce: str | None
    """The change's own id, a UUID as 32 hex digits; None unless ``durable`` or ``receipt`` was
    asked for."""

    def __new__(cls, version: int, char_id: int | None = None, nonce: str | None = None) -> Self:
        receipt = super().__new__(cls, version)
        receipt.char_id = char_id
        receipt.nonce = nonce and _checked(nonce)
        return receipt


def _checked(nonce: str) -> str:
    try:
        return UUID(nonce).hex
    except (ValueError, AttributeError):
        raise InvalidInput(f"{shown(nonce)} is not a nonce: it must be a UUID") from None


def new_nonce() -> str:
    """Return an id for a change: a UUID that begins with the time (version 7), as hex."""
    return f"{time.time_ns() // 1_000_000:012x}7{uuid4().hex[13:]}"


def made_at(nonce: str) -> float:
    """Return when a nonce was made, in seconds of the epoch."""
    return int(nonce[:12], 16) / 1000
