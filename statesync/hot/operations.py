"""Owns the operations on Redis as methods: those of games, and those of workers and operators.

Each is one function of ``commands`` without its ``keys``. A store runs the Command that the
function returns; ``GameCommands`` and ``Commands`` only build it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from statesync.hot.command import Command
from statesync.hot.commands import acknowledge as acks
from statesync.hot.commands import (
    backup,
    characters,
    claims,
    health,
    operators,
    rights,
    seals,
    servers,
    sessions,
    ties,
    together,
    transfer,
    troubles,
)
from statesync.hot.commands import revert as reverts
from statesync.hot.keys import Keys

__all__ = ["AsyncOperations", "Commands", "GameCommands", "Operations", "SyncOperations"]

T = TypeVar("T")
P = ParamSpec("P")


class _Operation(Generic[P, T]):
    """One function of ``commands`` as a method, with its name, documentation and parameters."""

    def __init__(self, build: Callable[Concatenate[Keys, P], Command[T]]) -> None:
        def method(owner: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
            return owner.run(build(owner.keys, *args, **kwargs))

        method.__doc__ = build.__doc__
        method.__module__ = build.__module__
        method.__dict__["__signature__"] = _method_signature(build)
        self._method = method

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._method.__name__ = name
        self._method.__qualname__ = f"{owner.__name__}.{name}"

    @overload
    def __get__(self, owner: None, owner_type: type[Any]) -> Callable[..., Any]: ...
    @overload
    def __get__(self, owner: SyncOperations, owner_type: type[Any]) -> Callable[P, T]: ...
    @overload
    def __get__(
        self, owner: AsyncOperations, owner_type: type[Any]
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, owner: GameCommands, owner_type: type[Any]) -> Callable[P, Command[T]]: ...
    def __get__(self, owner: Any, owner_type: type[Any]) -> Any:
        return self._method if owner is None else MethodType(self._method, owner)


def _method_signature(build: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a function with ``self`` for ``keys``, and the type of its result."""
    signature = inspect.signature(build)
    keys, *parameters = signature.parameters.values()
    owner = keys.replace(name="self", annotation=inspect.Parameter.empty)
    result = str(signature.return_annotation).removeprefix("Command[").removesuffix("]")
    return signature.replace(parameters=[owner, *parameters], return_annotation=result)


class _GameOperations:
    """What game code does."""

    keys: Keys

    create = _Operation(characters.create)
    get = _Operation(characters.get)
    update = _Operation(characters.update)
    mark_dirty = _Operation(characters.mark_dirty)
    update_together = _Operation(together.update_together)
    open_session = _Operation(sessions.open_session)
    update_session = _Operation(sessions.update_session)
    join_session = _Operation(sessions.join_session)
    leave_session = _Operation(sessions.leave_session)
    close_session = _Operation(sessions.close_session)
    get_session = _Operation(sessions.get_session)
    read_log = _Operation(sessions.read_log)
    get_full_state = _Operation(sessions.get_full_state)


class Operations(_GameOperations):
    """What game code, workers and operators do."""

    claim = _Operation(claims.claim)
    claim_dirty = _Operation(claims.claim_dirty)
    requeue = _Operation(claims.requeue)
    release = _Operation(claims.release)
    quarantine = _Operation(claims.quarantine)

    try_snapshots = _Operation(backup.try_snapshots)
    snapshot = _Operation(backup.snapshot)
    acknowledge = _Operation(acks.acknowledge)
    acknowledge_many = _Operation(acks.acknowledge_many)

    withdraw = _Operation(seals.withdraw)
    cut_seals = _Operation(seals.cut_seals)
    read_seals = _Operation(seals.read_seals)
    note_deletion = _Operation(seals.note_deletion)

    revert = _Operation(reverts.revert)
    list_dropped = _Operation(reverts.list_dropped)
    read_dropped = _Operation(reverts.read_dropped)
    discard_dropped = _Operation(reverts.discard_dropped)

    peek = _Operation(transfer.peek)
    peek_session = _Operation(transfer.peek_session)
    reconcile = _Operation(transfer.reconcile)
    reconcile_session = _Operation(transfer.reconcile_session)
    stage = _Operation(transfer.stage)
    restore = _Operation(transfer.restore)
    evict = _Operation(transfer.evict)
    presence = _Operation(transfer.presence)
    set_tombstone = _Operation(transfer.set_tombstone)

    count = _Operation(operators.count)
    status = _Operation(operators.status)
    sync_state = _Operation(operators.sync_state)
    read_fields = _Operation(characters.read_fields)
    pending = _Operation(operators.pending)
    list_quarantine = _Operation(operators.list_quarantine)
    retry_quarantined = _Operation(operators.retry_quarantined)
    discard_quarantined = _Operation(operators.discard_quarantined)
    scan = _Operation(operators.scan)
    read_tie = _Operation(ties.read_tie)
    mark_unsaved = _Operation(operators.mark_unsaved)
    forget = _Operation(operators.forget)
    heartbeat = _Operation(health.heartbeat)
    note_scrub = _Operation(health.note_scrub)
    examine = _Operation(health.examine)
    figures = _Operation(health.figures)
    lacking_rights = _Operation(rights.lacking_rights)

    note_trouble = _Operation(troubles.note_trouble)
    end_troubles = _Operation(troubles.end_troubles)
    troubles = _Operation(troubles.troubles)

    count_sweep = _Operation(servers.count_sweep)
    is_count_due = _Operation(servers.is_count_due)
    note_postgresql = _Operation(servers.note_postgresql)
    note_loss = _Operation(servers.note_loss)
    take_comparison = _Operation(servers.take_comparison)
    advance_comparison = _Operation(servers.advance_comparison)
    release_comparison = _Operation(servers.release_comparison)
    note_lost = _Operation(servers.note_lost)
    drop_tombstones = _Operation(servers.drop_tombstones)
    heads = _Operation(servers.heads)


class SyncOperations(Operations):
    """All operations, for a store that runs them."""


class AsyncOperations(Operations):
    """All operations, for a store whose results are awaited."""


class GameCommands(_GameOperations):
    """Builds the Commands of games under one key prefix, for ``run_many``."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys

    def run(self, command: Command[T]) -> Command[T]:
        """Return the Command: it is run together with others."""
        return command


class Commands(GameCommands, Operations):
    """Builds all Commands under one key prefix, for ``run_many``."""
