"""Owns the steps of the demo, and the state that each character and session should have."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from celery import Celery
from sqlalchemy import insert

from statesync import durable
from statesync.durable import database
from statesync.durable.tables import STATS, character_stats, characters
from statesync.embedded.child import Child
from statesync.embedded.stack import Stack
from statesync.errors import EmbeddedServerError
from statesync.hot.store import unwrap
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.state.characters import Character
from statesync.state.outcomes import BackupOutcome, RestoreOutcome
from statesync.state.references import SessionRef, reference_field
from statesync.state.sessions import Session
from statesync.worker.brokers import sender_settings
from statesync.worker.names import QueueName, TaskName

__all__ = ["Demo", "Step"]

_CHARACTERS = 2_000
_ANSWER_SECONDS = 30
_PLAYERS = 4
_PLAY_SECONDS = 4.0
_WAIT_SECONDS = 60.0
_CHANGED_AT_ONCE = 20
_RESTORED_AT_ONCE = 500
_KILL_ATTEMPTS = 10
_SAVED_BEFORE_KILL = 100

Core = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the closing table."""

    step: str
    count: int
    seconds: float
    held: bool | None = None
    """Whether the comparison held; None if nothing was compared."""
    note: str = ""


class Demo:
    """A game on running servers that knows what each character and session should be."""

    def __init__(self, running: Stack, orchestrator: GameStateOrchestrator, worker: Child) -> None:
        self.running = running
        self.orchestrator = orchestrator
        self.hot = orchestrator.hot
        self.worker = worker
        self.expected: dict[int, Core] = {}
        self.sessions: dict[SessionRef, dict[str, Any]] = {}
        """Every open session: its fields, and under ``log`` how many entries its log has."""
        self.tasks = Celery()
        self.tasks.conf.update(sender_settings(running.settings, seconds=_ANSWER_SECONDS))

    def stages(self) -> list[tuple[str, Callable[[], Iterable[Step]]]]:
        """Return the stages in their order, each with what it does."""
        return [
            ("creating characters in PostgreSQL", self.create),
            ("logging them in", self.log_in),
            ("opening fights, inventories and quests", self.open),
            ("playing", self.play),
            ("waiting for the sync", self.sync),
            ("wiping Redis", self.wipe),
            ("killing a worker in the middle of a backup", self.kill),
        ]

    def create(self) -> Iterable[Step]:
        """Create the characters as a game does that has only PostgreSQL."""
        started = time.monotonic()
        self.expected = {i: _new_core(i) for i in range(1, _CHARACTERS + 1)}
        with database.transaction(self.orchestrator.engine) as connection:
            rows = [_row(i, core) for i, core in self.expected.items()]
            connection.execute(insert(characters), rows)
            stats = [{"character_id": i} | core["stats"] for i, core in self.expected.items()]
            connection.execute(insert(character_stats), stats)
        yield Step("create characters in PostgreSQL", _CHARACTERS, time.monotonic() - started)

    def log_in(self) -> Iterable[Step]:
        """Restore all, and then one that is live."""
        yield self._restore("log in through Celery")
        yield self._compare_redis("compare Redis with what was created")
        started = time.monotonic()
        outcome = self._send(TaskName.RESTORE_FULL_STATE, 1, QueueName.RESTORE)["outcome"]
        is_live = outcome == RestoreOutcome.LIVE
        yield Step("log in again, alone", 1, time.monotonic() - started, is_live, outcome)

    def open(self) -> Iterable[Step]:
        """Open fights of four, inventories and quests; some characters are in two of them."""
        started = time.monotonic()
        for i in range(1, 401, 4):
            party = [i, i + 1, i + 2, i + 3]
            fight = {"monsters": [{"id": "orc", "hp": 30}], "turn_order": party, "turn": "0"}
            self._open("combat", party, fight, {"state": "combat"})
        for i in range(301, 701):
            items = [{"item_id": f"{i}-{n}", "kind": "potion", "quantity": n} for n in (3, 1, 2)]
            self._open("inventory", [i], {"items": items, "filters": {}, "turn": "0"})
        for i in range(601, 801):
            quest = {"quest_id": "crypt", "node": "gate", "graph": {"gate": ["hall"]}}
            self._open("scenario", [i], {**quest, "variables": {"keys": i % 3}, "turn": "0"})
        seconds = time.monotonic() - started
        yield Step("open fights, inventories and quests", len(self.sessions), seconds)

    def play(self) -> Iterable[Step]:
        """Let players change characters and sessions at once, each its own."""
        with ThreadPoolExecutor(_PLAYERS) as threads:
            changes = sum(threads.map(self._play, range(_PLAYERS)))
        yield Step(f"play: changes by {_PLAYERS} concurrent players", changes, _PLAY_SECONDS)

    def sync(self) -> Iterable[Step]:
        """Wait until nothing is dirty."""
        yield self._wait_saved("the sync saves what is dirty")
        yield self._compare_postgresql("compare PostgreSQL with what was played")

    def wipe(self) -> Iterable[Step]:
        """Lose the cache, and restore all."""
        started = time.monotonic()
        self.running.servers.valkey_command("FLUSHDB")
        peeks = self.hot.run_many([self.hot.commands.peek(i) for i in self.expected])
        is_empty = all(peek is None for peek in peeks)
        yield Step("wipe Redis", _CHARACTERS, time.monotonic() - started, is_empty)
        yield self._restore("restore all through Celery")
        yield self._compare_redis("compare Redis with what was played")

    def kill(self) -> Iterable[Step]:
        """Kill a worker that has saved only part of its claims; another one goes on."""
        chance = random.Random(0)  # noqa: S311
        for _ in range(_KILL_ATTEMPTS):
            saved, claimed = self._kill_while_saving(chance)
            if claimed:
                break
            self.worker = self.running.start_worker("worker-again")  # it was faster: once more
        yield Step(
            "kill -9 a worker in the middle of a backup",
            saved,
            0.0,
            claimed > 0,
            f"{claimed} claims left behind",
        )
        self.running.start_worker("worker-2")
        yield self._wait_saved("another worker takes over when the lease ends")
        yield self._compare_postgresql("compare PostgreSQL with what was played")

    def _open(
        self,
        session_type: str,
        party: list[int],
        fields: dict[str, Any],
        core: Core | None = None,
    ) -> None:
        session_id = str(self.hot.open_session(session_type, party, fields, core))
        ref = SessionRef(session_type, session_id)
        self.sessions[ref] = {**fields, "participants": party, "log": 0}
        for i in party:
            self.expected[i] |= {reference_field(session_type): session_id} | (core or {})

    def _play(self, player: int) -> int:
        """Play the characters and sessions of one player; returns how many changes it made."""
        chance = random.Random(player)  # noqa: S311
        char_ids = range(player + 1, _CHARACTERS + 1, _PLAYERS)
        refs = list(self.sessions)[player::_PLAYERS]
        changes = 0
        stop = time.monotonic() + _PLAY_SECONDS
        while time.monotonic() < stop:
            changes += self._change(chance.sample(char_ids, _CHANGED_AT_ONCE), chance)
            changes += self._act(chance.choice(refs))
        return changes

    def _change(self, char_ids: Sequence[int], chance: random.Random) -> int:
        """Change characters in one round trip, and note what they should be; returns how many.

        Only one thread may change a character: that makes the expected state certain.
        """
        updates = []
        for i in char_ids:
            change = _change_of(self.expected[i], chance)
            updates.append(self.hot.commands.update(i, change))
            self.expected[i].update(change)
        for reply in self.hot.run_many(updates):
            unwrap(reply)
        return len(updates)

    def _act(self, ref: SessionRef) -> int:
        """Change a session, and note what it should be; returns how many changes that is."""
        expected = self.sessions[ref]
        turn = {"turn": str(int(expected["turn"]) + 1)}
        log = [{"turn": turn["turn"], "hit": 3}] if ref.session_type == "combat" else []
        self.hot.update_session(*ref, turn, log=log)
        expected |= turn
        expected["log"] += len(log)
        return 1

    def _kill_while_saving(self, chance: random.Random) -> tuple[int, int]:
        """Kill the worker once it has saved some; returns how many, and the claims it leaves."""
        self._wait_saved("")
        before = self._saved()
        for first in range(1, _CHARACTERS + 1, 100):
            self._change(range(first, first + 100), chance)
        stop = time.monotonic() + _WAIT_SECONDS
        while (saved := self._saved() - before) < _SAVED_BEFORE_KILL and time.monotonic() < stop:
            time.sleep(0.001)
        self.worker.kill()
        return saved, self.hot.status().claimed

    def _saved(self) -> int:
        return self.hot.status().counters.get(BackupOutcome.SAVED, 0)

    def _send(self, task: TaskName, argument: object, queue: QueueName) -> Any:
        """Send a task by its name, as a game does, and return its result."""
        name = self.running.settings.queue(queue)
        result = self.tasks.send_task(task.value, args=[argument], queue=name)
        return result.get(timeout=_WAIT_SECONDS)

    def _restore(self, title: str) -> Step:
        started = time.monotonic()
        char_ids = list(self.expected)
        pages = [
            char_ids[i : i + _RESTORED_AT_ONCE] for i in range(0, len(char_ids), _RESTORED_AT_ONCE)
        ]
        queue = self.running.settings.queue(QueueName.BACKUP)
        results = [
            self.tasks.send_task(TaskName.RESTORE_BATCH.value, args=[page], queue=queue)
            for page in pages
        ]
        counts = [result.get(timeout=_WAIT_SECONDS) for result in results]
        restored = sum(count.get(RestoreOutcome.RESTORED, 0) for count in counts)
        return Step(title, restored, time.monotonic() - started, restored == len(char_ids))

    def _wait_saved(self, title: str) -> Step:
        """Wait until nothing is dirty or claimed. Raises EmbeddedServerError if that takes long."""
        started = time.monotonic()
        before = self._saved()
        while (status := self.hot.status()).dirty or status.claimed:
            if time.monotonic() - started > _WAIT_SECONDS:
                left = f"{status.dirty} dirty, {status.claimed} claimed"
                raise EmbeddedServerError(f"the sync did not finish: {left} are left")
            time.sleep(0.005)
        return Step(title, self._saved() - before, time.monotonic() - started)

    def _compare_redis(self, title: str) -> Step:
        started = time.monotonic()
        cores = self.hot.run_many([self.hot.commands.get(i) for i in self.expected])
        sessions = self.hot.run_many([self.hot.commands.get_session(*ref) for ref in self.sessions])
        return self._compare(
            title,
            [core for core in cores if isinstance(core, Character)],
            [session for session in sessions if isinstance(session, Session)],
            started,
        )

    def _compare_postgresql(self, title: str) -> Step:
        started = time.monotonic()
        with database.transaction(self.orchestrator.engine) as connection:
            rows = durable.characters.load(connection, self.expected)
            sessions = [
                session
                for orchestrator in self.orchestrator.sessions.values()
                for session in orchestrator.load(connection, list(self.expected)).values()
            ]
        return self._compare(title, rows.values(), sessions, started)

    def _compare(
        self,
        title: str,
        found_characters: Iterable[Character],
        found_sessions: Iterable[Session],
        started: float,
    ) -> Step:
        """Compare every field of what was found with what should be."""
        cores = {character.char_id: character.core() for character in found_characters}
        sessions = {s.ref: {**s.fields, "log": s.log_length} for s in found_sessions}
        differing = [str(i) for i, core in self.expected.items() if cores.get(i) != core]
        differing += [
            ref.label for ref, fields in self.sessions.items() if sessions.get(ref) != fields
        ]
        note = (
            f"{len(differing)} differ, such as {differing[0]}" if differing else "every field equal"
        )
        count = len(self.expected) + len(self.sessions)
        return Step(title, count, time.monotonic() - started, not differing, note)


def _change_of(core: Core, chance: random.Random) -> Core:
    """Return new values for gold and one other field of a core."""
    change: Core = {"gold": str(chance.randrange(10_000))}
    field = chance.choice(("location", "vitals", "stats"))
    if field == "location":
        change[field] = {"current": _place(chance), "prev": core["location"]["current"]}
    elif field == "vitals":
        most = core["vitals"]["hp"]["max"]
        change[field] = {"hp": {"cur": chance.randint(1, most), "max": most}}
    else:
        change[field] = core["stats"] | {chance.choice(STATS): chance.randint(1, 20)}
    return change


def _place(chance: random.Random) -> str:
    return chance.choice(("tavern", "market", "forest", "crypt", "harbour", "tower"))


def _new_core(char_id: int) -> Core:
    chance = random.Random(char_id)  # noqa: S311
    hp = chance.randint(50, 150)
    return {
        "state": "exploration",
        "location": {"current": _place(chance)},
        "bio": {"name": f"Hero {char_id}", "gender": chance.choice("fmx")},
        "stats": {stat: chance.randint(1, 20) for stat in STATS},
        "vitals": {"hp": {"cur": hp, "max": hp}},
    }


def _row(char_id: int, core: Core) -> dict[str, Any]:
    return {
        "id": char_id,
        "name": core["bio"]["name"],
        "gender": core["bio"]["gender"],
        "game_stage": core["state"],
        "location_id": core["location"]["current"],
        "vitals": core["vitals"],
    }
