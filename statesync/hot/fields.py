"""Owns how fields reach a script: a mapping and keywords as one; packed to set and to delete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from statesync.errors import InvalidInput

__all__ = ["check_durable", "gather_fields", "list_writes"]


def list_writes(encoded: Mapping[str, str | None]) -> tuple[list[str], ...]:
    """Return encoded fields as ``shared/fields.lua`` takes them; None is a field to delete."""
    set_pairs: list[str] = []
    deleted: list[str] = []
    for name, text in encoded.items():
        if text is None:
            deleted.append(name)
        else:
            set_pairs += (name, text)
    return (set_pairs, deleted) if deleted else (set_pairs,)


def gather_fields(fields: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a mapping and those given as keywords. Raises InvalidInput."""
    if fields is None:
        return dict(more)
    if not isinstance(fields, Mapping):
        raise InvalidInput(f"the fields must be a mapping, not {type(fields).__name__}")
    if both := sorted(fields.keys() & more.keys()):
        raise InvalidInput(f"the field {both[0]!r} is given twice: in the mapping and as a keyword")
    return {**fields, **more}


def check_durable(durable: object) -> bool:
    """Return the option ``durable`` if it is a bool; if not, raises InvalidInput."""
    if not isinstance(durable, bool):
        raise InvalidInput(
            f"durable is an option, True or False, not {durable!r:.60}; "
            'put a field of that name in the mapping: {"durable": …}'
        )
    return durable
