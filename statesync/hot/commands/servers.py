"""Owns what is sent to Redis to find out that a server went back in time, and to settle it. No I/O.

Everything stands in one hash: the counter of sweeps, what Redis remembers of PostgreSQL's, and how
far the comparison of everything live with its rows has come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from statesync.hot.command import Command, Raw, load_script
from statesync.hot.keys import Keys
from statesync.state.references import SessionRef

__all__ = [
    "CoreHead",
    "Counted",
    "Heads",
    "LossFlag",
    "SessionHead",
    "Taken",
    "advance_comparison",
    "count_sweep",
    "drop_tombstones",
    "heads",
    "is_count_due",
    "note_loss",
    "note_lost",
    "note_postgresql",
    "release_comparison",
    "take_comparison",
]


class LossFlag(StrEnum):
    """What Redis holds while a loss is being settled."""

    SETTLING = "settling"
    """Redis went back: a core that knows no row is not laid over one."""
    RECOVERING = "recovering"
    """PostgreSQL went back: everything live is being saved again before anything is restored."""


class Counted(NamedTuple):
    """What a sweep found when it was counted."""

    redis_sweeps: int
    redis_run_id: str
    postgresql_sweeps: str
    """As Redis remembers them; empty if it remembers nothing."""
    redis_went_back: bool
    redis_is_news: bool
    """Whether that was not known yet."""
    postgresql_went_back: bool
    postgresql_is_news: bool
    """Whether that was not known yet."""
    has_started: bool
    """Whether one of the two has started since the sweep before."""


_count_sweep = load_script("count_sweep")


def count_sweep(
    keys: Keys,
    /,
    *,
    postgresql_sweeps: int,
    postgresql_run_id: str,
    redis_sweeps: int,
    redis_run_id: str | None,
    is_recovering: bool = False,
) -> Command[Counted]:
    """Count a sweep in Redis, and compare the counters with what the other server remembers.

    ``is_recovering`` says whether PostgreSQL remembers that what is live is being saved again.
    """

    def parse(reply: Raw) -> Counted:
        sweeps, run_id, known, *flags = reply
        remembered = known.decode(errors="backslashreplace")
        return Counted(sweeps, run_id.decode(), remembered, *map(bool, flags))

    memory = (redis_sweeps, redis_run_id or "", int(is_recovering))
    args = (postgresql_sweeps, postgresql_run_id, *memory)
    # Repeatable: a number that is left out harms nothing.
    return Command(_count_sweep, (keys.servers,), args, parse, repeatable=True)


_is_count_due = load_script("is_count_due")


def is_count_due(
    keys: Keys,
    /,
    *,
    postgresql_sweeps: int,
    postgresql_run_id: str,
    redis_sweeps: int,
    redis_run_id: str | None,
    round_ms: int,
) -> Command[bool]:
    """Say whether none was counted for ``round_ms``, or the servers do not know each other."""
    args = (postgresql_sweeps, postgresql_run_id, redis_sweeps, redis_run_id or "", round_ms)
    return Command(_is_count_due, (keys.servers,), args, bool, repeatable=True)


_note_postgresql = load_script("note_postgresql")


def note_postgresql(keys: Keys, remembered: str, /, *, sweeps: int, run_id: str) -> Command[None]:
    """Note PostgreSQL's counter, unless another sweep has done so since it was ``remembered``."""
    args = (remembered, sweeps, run_id)
    return Command(_note_postgresql, (keys.servers,), args, lambda _: None, repeatable=True)


_note_loss = load_script("note_loss")


def note_loss(keys: Keys, flag: LossFlag, /, *, asks_only: bool = False) -> Command[bool]:
    """Note that a server went back in time. False if that was known; ``asks_only`` notes nothing.

    Redis goes back only as it starts: a second finding in one run of it is of the same loss.
    """
    # Not repeatable: the second time, it would be known.
    return Command(_note_loss, (keys.servers,), (flag, int(not asks_only)), bool)


class Taken(NamedTuple):
    """The comparison of everything live with its rows."""

    is_ours: bool
    """Whether we may go on with it; if not, another worker does, or there is none."""
    stands_at: str
    """Empty if there is none."""
    is_settling: bool
    """Whether Redis went back."""
    is_recovering: bool
    """Whether PostgreSQL went back, so that what is live is to be saved again."""


_take_comparison = load_script("take_comparison")


def take_comparison(
    keys: Keys, token: str, /, *, lease_us: int, begins: bool = False
) -> Command[Taken]:
    """Take the comparison for as long as a lease; ``begins`` it if there is none."""

    def parse(reply: Raw) -> Taken:
        is_ours, stands_at, *flags = reply
        return Taken(bool(is_ours), stands_at.decode(), *map(bool, flags))

    args = (token, lease_us, int(begins))
    return Command(_take_comparison, (keys.servers,), args, parse, repeatable=True)


_advance_comparison = load_script("advance_comparison")


def advance_comparison(
    keys: Keys, token: str, /, *, lease_us: int, before: str, after: str
) -> Command[bool]:
    """Note where the comparison stands; an empty ``after`` ends it. False if it is not ours."""
    args = (token, lease_us, before, after)
    # Not repeatable: the second time, it does not stand where it stood.
    return Command(_advance_comparison, (keys.servers,), args, bool)


_release_comparison = load_script("release_comparison")


def release_comparison(keys: Keys, token: str, /) -> Command[None]:
    """Give the comparison back before the lease ends."""
    return Command(_release_comparison, (keys.servers,), (token,), lambda _: None, repeatable=True)


_note_lost = load_script("note_lost")


def note_lost(keys: Keys, char_ids: Sequence[int], /) -> Command[None]:
    """Note of cores that know no row that they were there when Redis had gone back."""
    script_keys = [keys.seals, *map(keys.core, char_ids)]
    return Command(_note_lost, script_keys, char_ids, lambda _: None, repeatable=True)


_drop_tombstones = load_script("drop_tombstones")


def drop_tombstones(keys: Keys, tombstones: Mapping[int | str, bytes], /) -> Command[None]:
    """Delete tombstones, each if it still has this version, so that older rows can be restored."""
    script_keys = [*map(keys.tombstone, tombstones)]
    args = list(tombstones.values())
    return Command(_drop_tombstones, script_keys, args, lambda _: None, repeatable=True)


class CoreHead(NamedTuple):
    """What a core says of what is saved of it, undecoded; None is absent."""

    version: bytes | None
    saved_version: bytes | None
    seals: bytes | None


class SessionHead(NamedTuple):
    """What a session says of what is saved of it, undecoded; None is absent."""

    version: bytes | None
    participants: bytes | None
    seals: bytes | None


class Heads(NamedTuple):
    """What is still live of the cores and sessions that were asked for, and the tombstones."""

    cores: dict[int, CoreHead]
    sessions: dict[SessionRef, SessionHead]
    evicted: dict[int | str, bytes]
    """By character or id of a session: the version at which it left Redis."""


_heads = load_script("heads")


def heads(
    keys: Keys,
    char_ids: Sequence[int],
    sessions: Sequence[SessionRef] = (),
    /,
    *,
    evicted: Sequence[int | str] = (),
) -> Command[Heads]:
    """Read the heads of cores and sessions, and tombstones."""

    def parse(reply: Raw) -> Heads:
        live, last = len(char_ids) + len(sessions), 3 * (len(char_ids) + len(sessions))
        rows = [
            (version, detail, seals) if is_there else None
            for is_there, version, detail, seals in zip(
                reply[0:last:3],
                reply[1:last:3],
                reply[2:last:3],
                reply[len(reply) - live :],
                strict=True,
            )
        ]
        cores = zip(char_ids, rows, strict=False)
        found = zip(sessions, rows[len(char_ids) :], strict=True)
        tombstones = zip(evicted, reply[last : last + len(evicted)], strict=True)
        return Heads(
            {char_id: CoreHead(*row) for char_id, row in cores if row},
            {ref: SessionHead(*row) for ref, row in found if row},
            {item: version for item, version in tombstones if version},
        )

    script_keys = [
        keys.seals,
        *map(keys.core, char_ids),
        *(keys.session(*ref) for ref in sessions),
        *map(keys.tombstone, evicted),
    ]
    args: list[str | int] = [len(char_ids), len(sessions), *char_ids]
    args += [ref.id for ref in sessions]
    return Command(_heads, script_keys, args, parse, repeatable=True)
