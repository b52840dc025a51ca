"""Owns open inventories: a row per item in ``inventory_items``. An item has one owner."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Text,
    bindparam,
    cast,
    delete,
    func,
    literal,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import JSONPATH
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync import durable
from statesync.durable.memberships import Membership
from statesync.durable.recordset import recordset
from statesync.durable.tables import inventory_items, session_characters, sessions
from statesync.errors import InvalidField
from statesync.sessions.base import HeldElsewhere, SessionOrchestrator
from statesync.state.sessions import Session

__all__ = ["InventoryOrchestrator"]

Item = dict[str, Any]
_ITEM_KEYS = ("item_id", "kind", "quantity")
_COLUMNS = ("character_id", "kind", "quantity", "attributes")
_MAX_QUANTITY = 2**63 - 1

_batch = recordset(inventory_items, "item_id", _COLUMNS)
_DELETE_MISSING = delete(inventory_items).where(
    inventory_items.c.character_id == func.any(bindparam("owners")),
    ~select(literal(1)).where(_batch.c.item_id == inventory_items.c.item_id).exists(),
)
_PREVIOUS_OWNERS = (
    select(inventory_items.c.character_id)
    .join(_batch, _batch.c.item_id == inventory_items.c.item_id)
    .where(inventory_items.c.character_id != _batch.c.character_id)
)
_insert = upsert(inventory_items).from_select(
    ["item_id", *_COLUMNS],
    select(*(_batch.c[name] for name in ("item_id", *_COLUMNS))).order_by(_batch.c.item_id),
)
_UPSERT = _insert.on_conflict_do_update(
    index_elements=["item_id"],
    set_={name: _insert.excluded[name] for name in _COLUMNS},
    where=tuple_(*(inventory_items.c[name] for name in _COLUMNS)).is_distinct_from(
        tuple_(*(_insert.excluded[name] for name in _COLUMNS))
    ),
)


def _listed(field: str) -> ColumnElement[Any]:
    """Return a list in a session's payload as jsonb; an empty one if it is none."""
    return func.jsonb_path_query_array(sessions.c.payload, cast(f"$.{field}[*]", JSONPATH))


# Says in SQL what _owner says of a session: of the participants that are still in it, the first.
_order = select(func.jsonb_array_elements_text(_listed("participants"))).scalar_subquery()
_first_inside = (
    select(session_characters.c.character_id)
    .where(session_characters.c.session_id == sessions.c.id, session_characters.c.left_at.is_(None))
    .order_by(
        func.array_position(func.array(_order), cast(session_characters.c.character_id, Text)),
        session_characters.c.character_id,
    )
    .limit(1)
    .scalar_subquery()
)
_open = (
    select(sessions.c.id, _first_inside.label("owner"))
    .where(sessions.c.id == func.any(bindparam("sessions")))
    .subquery()
)
_HELD = (
    select(inventory_items.c.item_id, session_characters.c.character_id)
    .select_from(_open)
    .join(inventory_items, inventory_items.c.character_id == _open.c.owner)
    .join(session_characters, session_characters.c.session_id == _open.c.id)
    .where(
        inventory_items.c.item_id == func.any(bindparam("items")),
        session_characters.c.left_at.is_(None),
    )
    .order_by(inventory_items.c.item_id, session_characters.c.character_id)
)
_left_batch = recordset(session_characters, "session_id", ("character_id",))
_left = (
    select(
        _left_batch.c.character_id,
        _first_inside.label("next_owner"),
        _listed("items").label("item_ids"),
    )
    .join(sessions, sessions.c.id == _left_batch.c.session_id)
    .subquery()
)
_PASS_ON = (
    update(inventory_items)
    .where(
        inventory_items.c.character_id == _left.c.character_id,
        _left.c.next_owner.is_not(None),
        _left.c.item_ids.op("?")(inventory_items.c.item_id),
    )
    .values(character_id=_left.c.next_owner)
)


class InventoryOrchestrator(SessionOrchestrator):
    """An open inventory: ``items`` and ``filters``. The first participant in it owns the items."""

    session_type = "inventory"
    states = ("inventory",)
    json_fields = ("items", "filters")

    @classmethod
    def check(cls, fields: Mapping[str, Any]) -> None:
        """Refuse malformed items. Raises InvalidField, of a field such as ``items[2].quantity``."""
        items = fields.get("items", [])
        if not isinstance(items, list):
            raise InvalidField("items", "must be a JSON list of items")
        index_of: dict[str, int] = {}
        for index, item in enumerate(items):
            _check_item(f"items[{index}]", item)
            first = index_of.setdefault(item["item_id"], index)
            if first != index:
                raise InvalidField(
                    f"items[{index}].item_id",
                    f"{item['item_id']!r:.60} is the id of items[{first}] already",
                )

    @classmethod
    def check_together(cls, changes: Sequence[Mapping[str, Any]]) -> None:
        """Refuse an item in two inventories. Raises InvalidField."""
        ids = Counter(item["item_id"] for fields in changes for item in fields.get("items") or ())
        if twice := [item_id for item_id, count in ids.items() if count > 1]:
            raise InvalidField("items", f"item {twice[0]!r:.60} is in two inventories")

    def payload(self, session: Session) -> dict[str, Any]:
        """Return all fields; of the items only their ids, in order."""
        payload = dict(session.fields)
        if "items" in payload:
            payload["items"] = [item["item_id"] for item in payload["items"]]
        return payload

    def save(self, connection: Connection, snapshots: Sequence[Session]) -> None:
        """Write the items that differ, and take them from their previous owners."""
        rows: list[Item] = [
            _to_row(owner, item)
            # Of a closed and an open inventory that list the same item, the open one has it.
            for session in sorted(snapshots, key=lambda one: not one.closed)
            if (owner := _owner(session)) is not None
            for item in session.fields.get("items", [])
        ]
        owners = [_owner(session) for session in snapshots if "items" in session.fields]
        if not owners:
            return
        rows = list({row["item_id"]: row for row in rows}.values())
        previous = set(connection.execute(_PREVIOUS_OWNERS, {"rows": rows}).scalars())
        connection.execute(_DELETE_MISSING, {"owners": owners, "rows": rows})
        connection.execute(_UPSERT, {"rows": rows})
        self._invalidate_inventories(connection, previous - set(owners))

    def held_elsewhere(
        self, connection: Connection, changed: Sequence[Session], others: Sequence[Session]
    ) -> list[HeldElsewhere]:
        """Return the items of open inventories that another open inventory holds as well.

        A closed inventory holds nothing: its items may be in another one already.
        """
        holders: dict[str, list[Session]] = defaultdict(list)
        for session in (*changed, *others):
            for item_id in _held_items(session):
                holders[item_id].append(session)
        claims = [(item_id, session) for session in changed for item_id in _held_items(session)]
        live = [
            one
            for item_id, session in claims
            for other in holders[item_id]
            if other.id != session.id
            for one in _held_elsewhere(item_id, session, other.members, is_live=True)
        ]
        seen = {session.id for session in (*changed, *others)}
        saved = self._saved_holders(connection, [item_id for item_id, _ in claims], seen)
        return live + [
            one
            for item_id, session in claims
            for one in _held_elsewhere(item_id, session, saved.get(item_id, ()), is_live=False)
        ]

    def _saved_holders(
        self, connection: Connection, item_ids: Sequence[str], seen: Collection[UUID]
    ) -> dict[str, list[int]]:
        """Return who is in the open inventories, not ``seen``, that hold items in PostgreSQL."""
        query = select(inventory_items.c.character_id).where(
            inventory_items.c.item_id == func.any(bindparam("ids"))
        )
        owners = set(connection.execute(query, {"ids": list(item_ids)}).scalars())
        memberships = durable.memberships.current(connection, list(owners))
        unseen = {
            membership.session_id
            for membership in memberships
            if membership.session_type == self.session_type and membership.session_id not in seen
        }
        holders: dict[str, list[int]] = defaultdict(list)
        if unseen:
            arguments = {"sessions": list(unseen), "items": list(item_ids)}
            for item_id, char_id in connection.execute(_HELD, arguments):
                holders[item_id].append(char_id)
        return holders

    def pass_on(self, connection: Connection, left: Sequence[Membership]) -> None:
        """Give the items that characters owned for inventories to the next one in each."""
        gone = [{"session_id": str(one.session_id), "character_id": one.char_id} for one in left]
        connection.execute(_PASS_ON, {"rows": gone})

    def _invalidate_inventories(self, connection: Connection, owners: Collection[int]) -> None:
        """Have the open inventories of ``owners`` saved again: their rows have lost an item."""
        if not owners:
            return
        memberships = durable.memberships.current(connection, list(owners))
        inventories = [m.session_id for m in memberships if m.session_type == self.session_type]
        durable.digests.invalidate(connection, inventories)

    def load(self, connection: Connection, char_ids: Sequence[int]) -> dict[int, Session]:
        """Return open inventories with the items of their rows, in the order last saved."""
        open_sessions = self.open_sessions(connection, char_ids)
        owners = {_owner(session) for session in open_sessions.values()}
        items = self.items(connection, [owner for owner in owners if owner is not None])
        with_items = {s.id: _with_items(s, items) for s in open_sessions.values()}
        return {char_id: with_items[session.id] for char_id, session in open_sessions.items()}

    def items(self, connection: Connection, owners: Sequence[int]) -> dict[int, list[Item]]:
        """Return the items that each character owns in PostgreSQL, to open an inventory with."""
        query = (
            select(inventory_items)
            .where(inventory_items.c.character_id == func.any(bindparam("owners")))
            .order_by(inventory_items.c.item_id)
        )
        items: dict[int, list[Item]] = defaultdict(list)
        for row in connection.execute(query, {"owners": list(owners)}).mappings():
            item = {name: row[name] for name in _ITEM_KEYS}
            items[row["character_id"]].append(item | row["attributes"])
        return items


def _check_item(path: str, item: object) -> None:
    if not isinstance(item, dict):
        raise InvalidField(path, 'must be an object such as {"item_id","kind","quantity"}')
    for name in ("item_id", "kind"):
        if not isinstance(item.get(name), str) or not item[name]:
            raise InvalidField(f"{path}.{name}", "must be a non-empty string")
    quantity = item.get("quantity")
    if type(quantity) is not int or not 0 <= quantity <= _MAX_QUANTITY:
        reason = f"must be an integer from 0 to 2^63-1, not {quantity!r:.40}"
        raise InvalidField(f"{path}.quantity", reason)


def _held_items(session: Session) -> list[str]:
    """Return the items that an inventory holds: none if it is closed, or nobody is in it."""
    if session.closed or _owner(session) is None:
        return []
    return [item["item_id"] for item in session.fields.get("items", [])]


def _held_elsewhere(
    item_id: str, session: Session, others: Sequence[int], *, is_live: bool
) -> Iterator[HeldElsewhere]:
    """Yield that ``others`` hold an item of a session, for each that is in it."""
    thing = f"item {item_id!r:.60} is also in the inventory"
    for char_id in session.members:
        for other in others:
            if other != char_id:
                yield HeldElsewhere(char_id, other, "items", thing, is_live)


def _owner(session: Session) -> int | None:
    """Return who owns the items: the first participant that is in it; of a closed one, was."""
    inside = [char_id for char_id in session.participants if char_id in session.members]
    if not inside and session.closed:
        inside = [*session.participants]
    return next(iter(inside or session.members), None)


def _to_row(owner: int, item: Item) -> dict[str, Any]:
    attributes = dict(item)
    columns = {name: attributes.pop(name) for name in _ITEM_KEYS}
    return {"character_id": owner, **columns, "attributes": attributes}


def _with_items(session: Session, items: Mapping[int, list[Item]]) -> Session:
    owner = _owner(session)
    owned = items.get(owner, []) if owner is not None else []
    if "items" not in session.fields and not (owned and session.foreign):
        return session
    order = session.fields.get("items", [])
    index_of = {item_id: i for i, item_id in enumerate(order) if isinstance(item_id, str)}
    owned = sorted(owned, key=lambda item: index_of.get(item["item_id"], len(index_of)))
    return replace(session, fields={**session.fields, "items": owned})
