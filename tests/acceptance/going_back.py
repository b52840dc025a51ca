"""A game whose servers go back in time, and what each of them holds then."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Engine

from statesync import GameStateOrchestrator, GameStore, LoginService, Settings, Together
from statesync.errors import ServerUnavailable
from statesync.lifecycle.sweep import scheduled_sweep
from tests.acceptance.command_line import STATESYNC
from tests.acceptance.conftest import WAIT_SECONDS, wait_until
from tests.acceptance.rewind import Moment
from tests.acceptance.test_contract import rows

__all__ = ["Play", "go_on", "stopped_at"]

Fields = dict[str, Any]


class Play:
    """A game on both servers, and what each of them holds."""

    def __init__(
        self, settings: Settings, orchestrator: GameStateOrchestrator, engine: Engine, raw: Any
    ) -> None:
        self.settings = settings
        self.orchestrator = orchestrator
        self.hot = orchestrator.hot
        self.engine = engine
        self.raw = raw
        self.open_store()

    # What is played

    def save(self, char_id: int, **fields: Any) -> None:
        """Make a character that is saved."""
        self.store.create(char_id, state="exploration", **fields, durable=True)
        self.sweep()

    def play_on(self, char_id: int) -> None:
        """Change a character often enough for its number to pass every row's."""
        for xp in range(1, 6):
            self.store.update(char_id, xp=xp)

    def open_bags(self) -> list[UUID]:
        """Make two characters with a bag each; a sword is in the first one's."""
        bags = []
        for char_id, names in ((1, ["sword"]), (2, [])):
            self.save(char_id)
            things = [{"item_id": name, "kind": "thing", "quantity": 1} for name in names]
            bags.append(self.store.open_session("inventory", [char_id], {"items": things}))
        self.sweep()
        return bags

    def give(self, giver: UUID, taker: UUID) -> None:
        """Give all that is in one bag to another one; durable."""
        things = self.store.get_session("inventory", giver).fields["items"]
        trade = Together().update_session("inventory", giver, {"items": []})
        trade.update_session("inventory", taker, {"items": things})
        self.store.update_together(trade, durable=True)

    def go_back(self, before: Moment) -> None:
        """Bring PostgreSQL back, and let go of the connections that ended with it."""
        self.store.close()
        before.go_back()
        of_the_store = self.store._client.orchestrator.engine
        for engine in (self.engine, self.orchestrator.engine, of_the_store):
            engine.dispose()
        self.open_store()

    def open_store(self) -> None:
        self.store = GameStore(self.settings)
        self.service = LoginService(self.store)

    def sweep(self) -> dict[int, set[str]]:
        """Sweep until nothing is left to do; return the outcomes by character."""
        outcomes: dict[int, set[str]] = defaultdict(set)

        def save(claims: Any) -> None:
            with contextlib.suppress(ServerUnavailable):  # as the task of a worker fails
                for report in self.orchestrator.backup_claims(claims):
                    outcomes[report.char_id].add(str(report.outcome))

        def is_quiet() -> bool:
            scheduled_sweep(self.orchestrator, self.settings, save, save)
            return self.is_settled()

        is_quiet()  # it takes two sweeps to see that nothing is left
        wait_until(is_quiet)
        return dict(outcomes)

    # What is held

    def is_settled(self) -> bool:
        """Whether nothing is unsaved, and no loss is being settled."""
        status = self.hot.status()
        busy = status.dirty or status.claimed or status.comparing or status.recovering
        return not (busy or status.settling or self.hot.list_dropped())

    def row(self, char_id: int) -> Fields | None:
        """Return the game's own fields of a row that is not deleted."""
        query = f"SELECT extra FROM characters WHERE id = {char_id} AND deleted_at IS NULL"
        found = rows(self.engine, query)
        return found[0][0] if found else None

    def core(self, char_id: int) -> Fields | None:
        """Return the game's own fields of a loaded character."""
        core = self.raw.hgetall(self.hot.keys.core(char_id))
        fields = {name.decode(): value.decode() for name, value in core.items()}
        for name in ("state", "version", "saved_version"):
            fields.pop(name, None)
        return fields if core else None

    def items(self, bag: UUID) -> list[str]:
        """Return the names of what is in a loaded bag."""
        return [i["item_id"] for i in self.store.get_session("inventory", bag).fields["items"]]

    def is_recorded(self, name: str, value: object) -> bool:
        """Whether anything that was taken out of play, and is on record, has this field."""
        states = rows(self.engine, "SELECT state FROM state_conflicts")
        return any(_holds(state, name, str(value)) for (state,) in states)


@contextlib.contextmanager
def stopped_at(
    failpoint: str, settings: Settings, folder: Path, *words: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``statesync`` with ``words`` in a process that has stopped at a failpoint."""
    file = folder / failpoint
    env = {**os.environ, **settings.to_env(), "STOP_SYNC_AT": f"{failpoint}:{file}"}
    process = subprocess.Popen([*STATESYNC, *words], env=env, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: process.poll() is not None or (file.exists() and file.read_text()))
        assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.wait()


def go_on(process: subprocess.Popen[bytes]) -> None:
    """Have a process that has stopped go on to its end."""
    process.send_signal(signal.SIGCONT)
    assert process.wait(WAIT_SECONDS) == 0


def _holds(state: object, name: str, value: str) -> bool:
    """Whether JSON has a field with a value somewhere, whatever is around it."""
    if isinstance(state, str) and state[:1] in ("{", "["):
        return _holds(json.loads(state), name, value)
    if isinstance(state, list):
        return any(_holds(part, name, value) for part in state)
    if isinstance(state, dict):
        return str(state.get(name)) == value or _holds(list(state.values()), name, value)
    return False
