"""Owns open inventories: a row per item in ``inventory_items``, which has one owner at a time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, literal, select, tuple_
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync import durable
from statesync.durable.characters import recordset
from statesync.durable.tables import inventory_items
from statesync.errors import InvalidField
from statesync.sessions.base import SessionOrchestrator
from statesync.state.sessions import Session

__all__ = ["InventoryOrchestrator"]

Item = dict[str, Any]
_COLUMNS = ("character_id", "kind", "quantity", "attributes")
_MAX_QUANTITY = 2**63 - 1

_rows = recordset(inventory_items, "item_id", _COLUMNS)
_DELETE = delete(inventory_items).where(
    inventory_items.c.character_id == func.any(bindparam("owners")),
    ~select(literal(1)).where(_rows.c.item_id == inventory_items.c.item_id).exists(),
)
_ROBBED = (
    select(inventory_items.c.character_id)
    .join(_rows, _rows.c.item_id == inventory_items.c.item_id)
    .where(inventory_items.c.character_id != _rows.c.character_id)
)
_insert = upsert(inventory_items).from_select(
    ["item_id", *_COLUMNS],
    select(*(_rows.c[name] for name in ("item_id", *_COLUMNS))).order_by(_rows.c.item_id),
)
_UPSERT = _insert.on_conflict_do_update(
    index_elements=["item_id"],
    set_={name: _insert.excluded[name] for name in _COLUMNS},
    where=tuple_(*(inventory_items.c[name] for name in _COLUMNS)).is_distinct_from(
        tuple_(*(_insert.excluded[name] for name in _COLUMNS))
    ),
)


class InventoryOrchestrator(SessionOrchestrator):
    """An open inventory: ``items`` and ``filters``. Its first participant owns the items."""

    session_type = "inventory"
    states = ("inventory",)
    json_fields = ("items", "filters")

    @classmethod
    def check(cls, fields: Mapping[str, Any]) -> None:
        """Refuse items that are no items. Raises InvalidField, such as ``items[2].quantity``."""
        items = fields.get("items", [])
        if not isinstance(items, list):
            raise InvalidField("items", "must be a JSON list of items")
        seen: dict[str, int] = {}
        for index, item in enumerate(items):
            at = f"items[{index}]"
            if not isinstance(item, dict):
                raise InvalidField(at, 'must be an object such as {"item_id","kind","quantity"}')
            for name in ("item_id", "kind"):
                if not isinstance(item.get(name), str) or not item[name]:
                    raise InvalidField(f"{at}.{name}", "must be a non-empty string")
            quantity = item.get("quantity")
            if type(quantity) is not int or not 0 <= quantity <= _MAX_QUANTITY:
                raise InvalidField(
                    f"{at}.quantity", f"must be an integer from 0 to 2^63-1, not {quantity!r:.40}"
                )
            if item["item_id"] in seen:
                first = seen[item["item_id"]]
                raise InvalidField(
                    f"{at}.item_id", f"{item['item_id']!r:.60} is the id of items[{first}] already"
                )
            seen[item["item_id"]] = index

    def payload(self, session: Session) -> dict[str, Any]:
        """Return all but the items; of those, their order."""
        rest = dict(session.fields)
        if "items" in rest:
            rest["items"] = [item["item_id"] for item in rest["items"]]
        return rest

    def save(self, connection: Connection, snapshots: Sequence[Session]) -> None:
        """Write the difference. An item that was somebody else's is this owner's now."""
        rows: Sequence[Item] = [
            _to_row(owner, item)
            for session in snapshots
            if (owner := _owner(session)) is not None
            for item in session.fields.get("items", [])
        ]
        owners = [_owner(session) for session in snapshots if "items" in session.fields]
        if owners:
            rows = self._one_owner_each(connection, rows)
            robbed = set(connection.execute(_ROBBED, {"rows": rows}).scalars()) - set(owners)
            connection.execute(_DELETE, {"owners": owners, "rows": rows})
            connection.execute(_UPSERT, {"rows": rows})
            if robbed:
                # Their open inventories are not in the rows any more as they were last saved.
                known = durable.sessions.memberships(connection, list(robbed))
                durable.sessions.invalidate(
                    connection,
                    [i for _, session_type, i in known if session_type == self.session_type],
                )

    def _one_owner_each(self, connection: Connection, rows: Sequence[Item]) -> list[Item]:
        """Return ``rows`` with each item once. One that two inventories hold is on its way from the
        owner that PostgreSQL knows to the other one."""
        held = Counter(row["item_id"] for row in rows)
        twice = [item_id for item_id, times in held.items() if times > 1]
        if not twice:
            return list(rows)
        query = select(inventory_items.c.item_id, inventory_items.c.character_id).where(
            inventory_items.c.item_id == func.any(bindparam("ids"))
        )
        before = {(i, owner) for i, owner in connection.execute(query, {"ids": twice})}
        # The last one for each id stands, so who has it already goes first.
        ordered = sorted(rows, key=lambda row: (row["item_id"], row["character_id"]) not in before)
        return list({row["item_id"]: row for row in ordered}.values())

    def load(self, connection: Connection, char_ids: Sequence[int]) -> dict[int, Session]:
        """Return open inventories with the items as their rows are, in the order they were in."""
        found = self.open_sessions(connection, char_ids)
        owners = {_owner(session) for session in found.values()} - {None}
        items = self.items(connection, [owner for owner in owners if owner is not None])
        made = {session.id: _with_items(session, items) for session in found.values()}
        return {char_id: made[session.id] for char_id, session in found.items()}

    def items(self, connection: Connection, owners: Sequence[int]) -> dict[int, list[Item]]:
        """Return the items that characters own in PostgreSQL, to open an inventory with."""
        query = (
            select(inventory_items)
            .where(inventory_items.c.character_id == func.any(bindparam("owners")))
            .order_by(inventory_items.c.item_id)
        )
        found: dict[int, list[Item]] = defaultdict(list)
        for row in connection.execute(query, {"owners": list(owners)}).mappings():
            own = {name: row[name] for name in ("item_id", "kind", "quantity")}
            found[row["character_id"]].append(own | row["attributes"])
        return found


def _owner(session: Session) -> int | None:
    return next(iter(session.participants or session.members), None)


def _to_row(owner: int, item: Item) -> dict[str, Any]:
    attributes = dict(item)
    own = {name: attributes.pop(name) for name in ("item_id", "kind", "quantity")}
    return {"character_id": owner, **own, "attributes": attributes}


def _with_items(session: Session, items: Mapping[int, list[Item]]) -> Session:
    owner = _owner(session)
    owned = items.get(owner, []) if owner is not None else []
    if "items" not in session.fields and not (owned and session.foreign):
        return session
    order = session.fields.get("items", [])
    place = {item_id: i for i, item_id in enumerate(order) if isinstance(item_id, str)}
    owned = sorted(owned, key=lambda item: place.get(item["item_id"], len(place)))
    return replace(session, fields={**session.fields, "items": owned})
