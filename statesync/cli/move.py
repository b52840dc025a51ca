"""Owns `statesync where` and `statesync move`: in which realm a character is, and its way there."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import click

from statesync.cli.common import CharId, as_json, console, print_json, say
from statesync.durable.moves import Move, Step
from statesync.lifecycle.realms import Place, Realms
from statesync.settings import Settings

__all__ = ["move", "where"]


@contextlib.contextmanager
def _realms() -> Iterator[Realms]:
    settings = Settings.from_env()
    if not settings.realms:
        raise click.UsageError("STATESYNC_REALMS is not set: there is only one world")
    with Realms(settings) as realms:
        yield realms


@click.command()
@click.argument("char_id", metavar="[ID]", required=False, type=CharId())
@as_json
def where(char_id: int | None, as_json: bool) -> None:
    """Tell in which realm a character is; without an ID, which moves are not finished.

    Exit status 1 if no realm knows the character, or if there are unfinished moves.

    \b
    Examples:
      statesync where 42
      statesync where
    """
    with _realms() as realms:
        if char_id is None:
            _show_unfinished(realms.unfinished_moves(), as_json=as_json)
            return
        places = realms.where(char_id)
    if as_json:
        print_json({place.realm: _place_json(place) for place in places})
    for place in [] if as_json else places:
        say(f"{place.realm}: {_describe(place)}")
    if not places:
        if not as_json:
            console.print(f"No realm knows character {char_id}.")
        sys.exit(1)


@click.command()
@click.argument("char_id", metavar="ID", type=CharId())
@click.option("--to", required=True, metavar="REALM", help="Where it goes.")
@click.option("--from", "source", default="", metavar="REALM", help="If two realms have the id.")
@as_json
def move(char_id: int, to: str, source: str, as_json: bool) -> None:
    """Move a character to another realm, with its items and quests. It is logged out.

    It must not be in a session, nor tied to others by a change that is not saved yet. Safe to run
    again if it was cut off, which it has to be: at no moment can two realms restore it, but between
    the last two steps none can. `statesync where` lists the moves that are not finished.

    \b
    Examples:
      statesync move 42 --to us
    """
    with _realms() as realms:
        moved = realms.move(char_id, to, source=source)
    if as_json:
        print_json(moved._asdict())
    else:
        say(f"{char_id}: moved from realm {moved.source} to {moved.target}")


def _show_unfinished(moves: list[Move], *, as_json: bool) -> None:
    if as_json:
        print_json([one._asdict() for one in moves])
    for one in [] if as_json else moves:
        say(
            f"{one.char_id}: from realm {one.source} to {one.target}, {one.step}; "
            f"`statesync move {one.char_id} --to {one.target}` goes on"
        )
    if moves:
        sys.exit(1)
    if not as_json:
        console.print("All moves are finished.")


def _place_json(place: Place) -> dict[str, Any]:
    return {
        "here": place.is_here,
        "live": place.is_live,
        "version": place.version,
        "deleted_at": place.deleted_at,
        "move": place.move and place.move._asdict(),
    }


def _describe(place: Place) -> str:
    """Say what a realm knows of a character."""
    words = ["live in Redis"] if place.is_live else []
    if place.version is not None:
        words.append(f"in PostgreSQL at version {place.version}")
    words += [_MOVES[place.move.step].format(*place.move)] if place.move else []
    is_by_itself = not place.move or place.move.step in (Step.ACTIVE, Step.REFUSED)
    if place.deleted_at and is_by_itself:
        words.append(f"deleted at {place.deleted_at}")
    return ", ".join(words)


_MOVES = {
    Step.INTENDED: "its move to realm {2} is not finished",
    Step.INACTIVE: "its move from realm {1} is not finished",
    Step.MOVED: "moved to realm {2}",
    Step.ACTIVE: "came from realm {1}",
    Step.REFUSED: "its move to realm {2} was refused",
    Step.DELETED: "deleted before its move from realm {1} to {2} was finished",
}
