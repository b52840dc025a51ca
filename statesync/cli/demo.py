"""Owns `statesync demo`: the main job, start to finish, on real servers, everything checked."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import click
from celery import Celery
from sqlalchemy import insert

from statesync import durable
from statesync.cli.common import as_json, console, print_json, progress_console, table
from statesync.durable import database
from statesync.durable.tables import STATS, character_stats, characters
from statesync.embedded.servers import Child
from statesync.embedded.stack import Stack, stack
from statesync.errors import EmbeddedServerError
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.state.characters import Character
from statesync.state.sessions import Session

__all__ = ["demo"]

_CHARACTERS = 2_000
_PLAYERS = 4
_PLAY_SECONDS = 4.0
_WAIT_SECONDS = 60.0
_SETTINGS: dict[str, Any] = {"sync_seconds": 1, "lease_seconds": 4, "batch_size": 50}
"""Short, so that nobody waits; small batches, so that there is a middle to be killed in."""

Core = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Step:
    """One line of the closing table."""

    step: str
    count: int
    seconds: float
    held: bool | None = None
    """Whether the comparison held; None where nothing was compared."""
    note: str = ""


@click.command()
@as_json
def demo(as_json: bool) -> None:
    """See all of it work, in under a minute, on servers of its own that are removed at the end.

    Creates 2,000 characters in PostgreSQL, logs them in, opens fights, inventories and quests,
    plays, lets the sync save them; wipes Redis and restores everyone; kills a worker in the middle
    of a backup. Compares every field of every character and session each time. Exit status 0 only
    if every comparison held.

    \b
    Examples:
      statesync demo
      statesync demo --json | jq .
    """
    steps: list[_Step] = []
    with progress_console.status("starting PostgreSQL and Valkey …") as status:
        started = time.monotonic()
        with stack(**_SETTINGS) as running:
            worker = running.start_worker("worker-1", wait=False)
            running.start_beat()
            running.wait_worker(worker)
            orchestrator = GameStateOrchestrator.from_settings(running.settings)
            run = _Demo(running, orchestrator, worker)
            seconds = time.monotonic() - started
            steps.append(_Step("start PostgreSQL, Valkey, worker and beat", 4, seconds))
            try:
                for what, step in run.steps():
                    status.update(f"{what} …")
                    for done in step():
                        steps.append(done)
                        _say(done)
            finally:
                orchestrator.close()
            status.update("stopping …")
    held = all(step.held is not False for step in steps)
    if as_json:
        print_json({"steps": [asdict(step) for step in steps], "held": held})
    else:
        _print(steps, held=held)
    if not held:
        sys.exit(1)


class _Demo:
    """The steps, and the state that every character should have."""

    def __init__(self, running: Stack, orchestrator: GameStateOrchestrator, worker: Child) -> None:
        self.running = running
        self.orchestrator = orchestrator
        self.hot = orchestrator.hot
        self.worker = worker
        self.expected: dict[int, Core] = {}
        self.sessions: dict[tuple[str, UUID], dict[str, Any]] = {}
        """Every open session: its fields, and under ``log`` how many entries its log has."""
        self.tasks = Celery(broker=running.settings.broker_url, backend=running.settings.result_url)

    def steps(self) -> list[tuple[str, Callable[[], Iterable[_Step]]]]:
        return [
            ("creating characters in PostgreSQL", self.create),
            ("logging them in", self.login),
            ("opening fights, inventories and quests", self.open),
            ("playing", self.play),
            ("waiting for the sync", self.sync),
            ("wiping Redis", self.wipe),
            ("killing a worker in the middle of a backup", self.kill),
        ]

    def create(self) -> Iterable[_Step]:
        started = time.monotonic()
        self.expected = {i: _new_core(i) for i in range(1, _CHARACTERS + 1)}
        rows = [
            {
                "id": i,
                "name": core["bio"]["name"],
                "gender": core["bio"]["gender"],
                "game_stage": core["state"],
                "location_id": core["location"]["current"],
                "vitals": core["vitals"],
            }
            for i, core in self.expected.items()
        ]
        with database.transaction(self.orchestrator.engine) as connection:
            connection.execute(insert(characters), rows)
            stats = [{"character_id": i} | core["stats"] for i, core in self.expected.items()]
            connection.execute(insert(character_stats), stats)
        yield _Step("create characters in PostgreSQL", _CHARACTERS, time.monotonic() - started)

    def login(self) -> Iterable[_Step]:
        yield self._restore("log in through Celery")
        yield self._compare_redis("compare Redis with what was created")
        started = time.monotonic()
        result = self.tasks.send_task("statesync.restore_full_state", args=[1], queue="restore")
        outcome = result.get(timeout=_WAIT_SECONDS)["outcome"]
        yield _Step(
            "log in again, alone", 1, time.monotonic() - started, outcome == "live", outcome
        )

    def open(self) -> Iterable[_Step]:
        """Open fights of four, inventories and quests; some characters are in two of them."""
        started = time.monotonic()
        for i in range(1, 401, 4):
            party = [i, i + 1, i + 2, i + 3]
            fight = {"monsters": [{"id": "orc", "hp": 30}], "turn_order": party, "turn": "0"}
            self._open("combat", party, fight, state="combat")
        for i in range(301, 701):
            items = [{"item_id": f"{i}-{n}", "kind": "potion", "quantity": n} for n in (3, 1, 2)]
            self._open("inventory", [i], {"items": items, "filters": {}, "turn": "0"})
        for i in range(601, 801):
            quest = {"quest_id": "crypt", "node": "gate", "graph": {"gate": ["hall"]}}
            self._open("scenario", [i], {**quest, "variables": {"keys": i % 3}, "turn": "0"})
        count = len(self.sessions)
        yield _Step("open fights, inventories and quests", count, time.monotonic() - started)

    def _open(
        self, session_type: str, party: list[int], fields: dict[str, Any], **core: Any
    ) -> None:
        session = self.hot.open_session(session_type, party, fields, **core)
        self.sessions[session_type, session] = {**fields, "participants": party, "log": 0}
        for i in party:
            self.expected[i] |= {f"{session_type}_session_id": str(session)} | core

    def play(self) -> Iterable[_Step]:
        stop = time.monotonic() + _PLAY_SECONDS
        counts = [0] * _PLAYERS
        failures: list[BaseException] = []

        def player(number: int) -> None:
            chance = random.Random(number)  # noqa: S311
            own = range(number + 1, _CHARACTERS + 1, _PLAYERS)
            own_sessions = list(self.sessions)[number::_PLAYERS]
            try:
                while time.monotonic() < stop:
                    counts[number] += self._change(chance.sample(own, 20), chance)
                    counts[number] += self._act(*chance.choice(own_sessions))
            except Exception as error:  # shown at the end: a thread has nobody to raise to
                failures.append(error)

        threads = [threading.Thread(target=player, args=(n,)) for n in range(_PLAYERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        yield _Step(f"play: changes by {_PLAYERS} concurrent players", sum(counts), _PLAY_SECONDS)

    def sync(self) -> Iterable[_Step]:
        yield self._drained("the sync saves what is dirty")
        yield self._compare_postgresql("compare PostgreSQL with what was played")

    def wipe(self) -> Iterable[_Step]:
        started = time.monotonic()
        self.running.servers.valkey_command("FLUSHDB")
        gone = all(
            version is None
            for version in self.hot.run_many([self.hot.commands.peek(i) for i in self.expected])
        )
        yield _Step("wipe Redis", _CHARACTERS, time.monotonic() - started, gone)
        yield self._restore("restore everyone through Celery")
        yield self._compare_redis("compare Redis with what was played")

    def kill(self) -> Iterable[_Step]:
        chance = random.Random(0)  # noqa: S311
        claimed = saved = 0
        for _ in range(10):
            self._drained("")
            before = self._saved()
            for i in range(1, _CHARACTERS + 1, 100):
                self._change(range(i, i + 100), chance)
            stop = time.monotonic() + _WAIT_SECONDS
            while (saved := self._saved() - before) < 100 and time.monotonic() < stop:
                time.sleep(0.001)
            self.worker.kill()
            claimed = self.hot.status().claimed
            if claimed:
                break
            self.worker = self.running.start_worker("worker-again")  # it was faster: once more
        yield _Step(
            "kill -9 a worker in the middle of a backup",
            saved,
            0.0,
            claimed > 0,
            f"{claimed} claims left behind",
        )
        self.running.start_worker("worker-2")
        yield self._drained("another worker takes over when the lease ends")
        yield self._compare_postgresql("compare PostgreSQL with what was played")

    def _change(self, ids: Iterable[int], chance: random.Random) -> int:
        """Change characters in one round trip, and remember what they should be; returns how many.

        Only one thread may change a character: that makes the expected state certain.
        """
        todo = []
        for i in ids:
            core = self.expected[i]
            change: Core = {"gold": str(chance.randrange(10_000))}
            session_type = chance.randrange(3)
            if session_type == 0:
                there = {"current": _place(chance), "prev": core["location"]["current"]}
                change["location"] = there
            elif session_type == 1:
                hp = core["vitals"]["hp"]
                change["vitals"] = {"hp": {"cur": chance.randint(1, hp["max"]), "max": hp["max"]}}
            else:
                change["stats"] = core["stats"] | {chance.choice(STATS): chance.randint(1, 20)}
            todo.append(self.hot.commands.update(i, **change))
            core.update(change)
        for reply in self.hot.run_many(todo):
            if isinstance(reply, Exception):
                raise reply
        return len(todo)

    def _act(self, session_type: str, session: UUID) -> int:
        """Change a session, and remember what it should be; returns how many changes that is."""
        there = self.sessions[session_type, session]
        turn = {"turn": str(int(there["turn"]) + 1)}
        log = [{"turn": turn["turn"], "hit": 3}] if session_type == "combat" else []
        self.hot.update_session(session_type, session, turn, log=log)
        there |= turn
        there["log"] += len(log)
        return 1

    def _saved(self) -> int:
        return self.hot.status().counters.get("saved", 0)

    def _restore(self, name: str) -> _Step:
        started = time.monotonic()
        ids = list(self.expected)
        results = [
            self.tasks.send_task("statesync.restore_batch", args=[ids[i : i + 500]], queue="backup")
            for i in range(0, len(ids), 500)
        ]
        counts = [result.get(timeout=_WAIT_SECONDS) for result in results]
        restored = sum(count.get("restored", 0) for count in counts)
        seconds = time.monotonic() - started
        return _Step(name, restored, seconds, restored == len(ids))

    def _drained(self, name: str) -> _Step:
        started = time.monotonic()
        before = self._saved()
        while (status := self.hot.status()).dirty or status.claimed:
            if time.monotonic() - started > _WAIT_SECONDS:
                left = f"{status.dirty} dirty, {status.claimed} claimed"
                raise EmbeddedServerError(f"the sync did not finish: {left} are left")
            time.sleep(0.005)
        return _Step(name, self._saved() - before, time.monotonic() - started)

    def _compare_redis(self, name: str) -> _Step:
        started = time.monotonic()
        replies = self.hot.run_many([self.hot.commands.get(i) for i in self.expected])
        live = {c.char_id: c for c in replies if isinstance(c, Character)}
        read = self.hot.commands.get_session
        sessions = self.hot.run_many(
            [read(session_type, session) for session_type, session in self.sessions]
        )
        return self._compared(name, live, [s for s in sessions if isinstance(s, Session)], started)

    def _compare_postgresql(self, name: str) -> _Step:
        started = time.monotonic()
        with database.transaction(self.orchestrator.engine) as connection:
            rows = durable.characters.load(connection, self.expected)
            sessions = [
                session
                for type_ in self.orchestrator.sessions.values()
                for session in type_.load(connection, list(self.expected)).values()
            ]
        return self._compared(name, rows, sessions, started)

    def _compared(
        self,
        name: str,
        found: dict[int, Character],
        sessions: Iterable[Session],
        started: float,
    ) -> _Step:
        wrong: list[object] = [
            i for i, core in self.expected.items() if i not in found or found[i].core() != core
        ]
        held = {(s.session_type, s.id): {**s.fields, "log": s.log_length} for s in sessions}
        wrong += [key for key, fields in self.sessions.items() if held.get(key) != fields]
        note = f"{len(wrong)} differ, such as {wrong[0]}" if wrong else "every field equal"
        count = len(self.expected) + len(self.sessions)
        return _Step(name, count, time.monotonic() - started, not wrong, note)


def _place(chance: random.Random) -> str:
    return chance.choice(("tavern", "market", "forest", "crypt", "harbour", "tower"))


def _new_core(i: int) -> Core:
    chance = random.Random(i)  # noqa: S311
    hp = chance.randint(50, 150)
    return {
        "state": "exploration",
        "location": {"current": _place(chance)},
        "bio": {"name": f"Hero {i}", "gender": chance.choice("fmx")},
        "stats": {stat: chance.randint(1, 20) for stat in STATS},
        "vitals": {"hp": {"cur": hp, "max": hp}},
    }


def _say(step: _Step) -> None:
    mark = {True: "[green]✓[/green]", False: "[red]✗[/red]", None: "·"}[step.held]
    progress_console.print(f"{mark} {step.step}: {step.count:,} {step.note}")


def _print(steps: list[_Step], *, held: bool) -> None:
    made = table("what happened", "number", "seconds", "per second", "held", title="")
    for column in made.columns[1:4]:
        column.justify = "right"
    for step in steps:
        rate = f"{step.count / step.seconds:,.0f}" if step.count > 4 and step.seconds else ""
        seconds = f"{step.seconds:.2f}" if step.seconds else ""
        verdict = {True: "[green]yes[/green]", False: "[red]NO[/red]", None: ""}[step.held]
        verdict += f" ({step.note})" if step.note else ""
        made.add_row(step.step, f"{step.count:,}", seconds, rate, verdict)
    console.print(made)
    console.print(
        "\n[bold green]Every comparison held: nothing was lost.[/bold green]"
        if held
        else "\n[bold red]A comparison did not hold.[/bold red]"
    )
