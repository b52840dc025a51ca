"""Many Commands go to Redis in parts, so that nobody else waits for all of them."""

from __future__ import annotations

from typing import Any

import pytest
from redis.connection import AbstractConnection

from statesync.hot.store import HotStore, unwrap

MANY = range(1, 1001)
MOST_KEYS = 64
"""Of one part."""


def test_no_more_than_two_parts_are_on_their_way(
    hot: HotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot.create(1)
    on_their_way = [0]
    send: Any = AbstractConnection.pack_commands
    read: Any = AbstractConnection.read_response

    def sending(connection: Any, commands: Any) -> Any:
        on_their_way.append(on_their_way[-1] + len(commands))
        return send(connection, commands)

    def reading(connection: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return read(connection, *args, **kwargs)
        finally:
            on_their_way.append(on_their_way[-1] - 1)

    monkeypatch.setattr(AbstractConnection, "pack_commands", sending)
    monkeypatch.setattr(AbstractConnection, "read_response", reading)
    updates = [hot.commands.update(1, {"gold": i}) for i in MANY]
    versions = [*map(int, map(unwrap, hot.run_many(updates)))]
    assert versions == [*range(versions[0], versions[0] + len(MANY))], "in order, each once"
    assert max(on_their_way) == 2 * (MOST_KEYS // len(updates[0].keys))
    assert on_their_way[-1] == 0
