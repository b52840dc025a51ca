"""Owns the rights that a worker needs in PostgreSQL, and names those that it lacks."""

from __future__ import annotations

from sqlalchemy import Connection, text

__all__ = ["missing_grants"]

_READ_AND_WRITE = ("SELECT", "INSERT", "UPDATE")
_NEEDED = {
    "characters": _READ_AND_WRITE,
    "character_stats": _READ_AND_WRITE,
    "sessions": _READ_AND_WRITE,
    "session_characters": _READ_AND_WRITE,
    "combat_log": ("SELECT", "INSERT", "DELETE"),
    "inventory_items": (*_READ_AND_WRITE, "DELETE"),
    "scenario_progress": _READ_AND_WRITE,
    "state_conflicts": ("SELECT", "INSERT"),
    "durable_changes": (*_READ_AND_WRITE, "DELETE"),  # to lock what it deletes takes UPDATE
    "server_counters": _READ_AND_WRITE,
    "operator_actions": _READ_AND_WRITE,
    "statesync_alembic_version": ("SELECT",),
    "statesync_realm": ("SELECT",),
    "statesync_moves": _READ_AND_WRITE,
}
_SEQUENCE = "state_conflicts_id_seq"

_LACKING = text("""
    SELECT needed.name, needed.privilege, quote_ident(current_user)
    FROM unnest(CAST(:names AS text[]), CAST(:privileges AS text[])) AS needed (name, privilege)
    WHERE NOT has_table_privilege(to_regclass(needed.name), needed.privilege)
""")
_LACKS_SEQUENCE = text("""
    SELECT quote_ident(current_user)
    WHERE NOT has_sequence_privilege(to_regclass(:name), 'USAGE')
""")
# Without this right the tables are as if they were not there.
_LACKS_SCHEMA = text("""
    SELECT quote_ident(nspname), quote_ident(current_user)
    FROM pg_namespace JOIN pg_class ON relnamespace = pg_namespace.oid
    WHERE relname = :name AND NOT has_schema_privilege(pg_namespace.oid, 'USAGE')
      AND nspname = ANY (string_to_array(replace(current_setting('search_path'), '"', ''), ', '))
""")


def missing_grants(connection: Connection) -> list[str]:
    """Return the statements by which the owner of the tables or their schema gives us what we lack.

    A table that is not there is the matter of a migration, not of a right.
    """
    schemas = connection.execute(_LACKS_SCHEMA, {"name": next(iter(_NEEDED))}).all()
    if schemas:
        return [f"GRANT USAGE ON SCHEMA {schema} TO {user}" for schema, user in schemas]
    needed = [(name, privilege) for name, all_of in _NEEDED.items() for privilege in all_of]
    arguments = {"names": [n for n, _ in needed], "privileges": [p for _, p in needed]}
    lacking: dict[str, list[str]] = {}
    for name, privilege, user in connection.execute(_LACKING, arguments):
        lacking.setdefault(f"{name} TO {user}", []).append(privilege)
    grants = [f"GRANT {', '.join(words)} ON {target}" for target, words in lacking.items()]
    for (user,) in connection.execute(_LACKS_SEQUENCE, {"name": _SEQUENCE}):
        grants.append(f"GRANT USAGE ON SEQUENCE {_SEQUENCE} TO {user}")
    return grants
