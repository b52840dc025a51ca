"""Owns how a whole batch of rows is sent: as one JSON parameter that PostgreSQL unpacks."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import FromClause, Table, bindparam, column, func
from sqlalchemy.dialects.postgresql import JSONB

__all__ = ["recordset"]


def recordset(table: Table, key: str, names: Sequence[str]) -> FromClause:
    """Return the bind parameter ``rows``, a JSON list of objects, as a table.

    Its columns are ``key`` and ``names``, of the types that they have in ``table``. PostgreSQL
    unpacks one parameter faster than Python writes a row of parameters each, and ``jsonb`` with
    less work and memory than ``json``.
    """
    columns = [column(name, table.c[name].type) for name in (key, *names)]
    rows = func.jsonb_to_recordset(bindparam("rows", type_=JSONB))
    return rows.table_valued(*columns, name="batch").render_derived(with_types=True)
