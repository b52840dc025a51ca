"""Owns how fields reach a script: a mapping and keywords as one; packed to set and to delete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from statesync.errors import InvalidInput
from statesync.state.fields import shown
from statesync.state.receipts import new_nonce

__all__ = ["check_option", "gather_fields", "list_writes", "nonce_if"]


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


def check_option(name: str, value: object) -> bool:
    """Return an option if it is a bool; if not, raises InvalidInput."""
    if not isinstance(value, bool):
        raise InvalidInput(
            f"{name} is an option, True or False, not {shown(value)}; "
            f'put a field of that name in the mapping: {{"{name}": …}}'
        )
    return value


def nonce_if(*, durable: object, receipt: object) -> str | None:
    """Return a nonce for a change if one of its options asks for it. Raises InvalidInput."""
    asked = [check_option("durable", durable), check_option("receipt", receipt)]
    return new_nonce() if any(asked) else None
