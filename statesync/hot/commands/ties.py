"""Owns what operators read of ties: who is saved together with a character. No I/O."""

from __future__ import annotations

from statesync.hot.command import Command, Raw, load_script
from statesync.hot.keys import Keys
from statesync.state.fields import check_char_id

__all__ = ["read_tie"]

_read_tie = load_script("read_tie")


def read_tie(keys: Keys, char_id: int, tie: str = "", /) -> Command[tuple[str, list[str]]]:
    """Read the id of the tie that a character is in, "" if in none, and the names in ``tie``.

    The names are read only if it is that one.
    """

    def parse(reply: Raw) -> tuple[str, list[str]]:
        named, *names = (part.decode(errors="backslashreplace") for part in reply)
        return named, names

    script_keys = (keys.core(check_char_id(char_id)), keys.tie(tie))
    return Command(_read_tie, script_keys, (tie,), parse, char_id, repeatable=True)
