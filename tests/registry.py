"""Owns how tests register session types: for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from statesync.state import session_types


@contextmanager
def registered(*classes: type) -> Iterator[None]:
    """Register ``classes``; at the end forget them, and what else the block has registered."""
    before = list(session_types._decorated)
    try:
        for cls in classes:
            session_types.register(cls)
        yield
    finally:
        session_types._decorated[:] = before
        session_types.clear_cache()
