"""Owns what is sent to Redis about seals alone: withdraw, cut, read; and the note of a deletion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from statesync.hot.command import Command, Raw, load_script, pack
from statesync.hot.commands.claims import Claim
from statesync.hot.keys import Keys
from statesync.state.seals import Seals, seals_of

__all__ = ["Withdrawn", "cut_seals", "note_deletion", "read_seals", "withdraw"]

_withdraw = load_script("withdraw")


class Withdrawn(NamedTuple):
    """A snapshot of which nothing was committed. A commit without an answer may still be made."""

    seal: int | str
    """Or the note of a deletion that was not made."""
    claims: Sequence[Claim]
    session_ids: Sequence[str] = ()


def withdraw(keys: Keys, snapshots: Sequence[Withdrawn], /) -> Command[None]:
    """Withdraw seals, of those members whose claims are still ours."""
    groups = [
        (str(seal), [(str(claim.char_id), str(claim.token)) for claim in claims], [*session_ids])
        for seal, claims, session_ids in snapshots
    ]
    script_keys = (keys.claimed, keys.seals)
    return Command(_withdraw, script_keys, (pack(groups),), lambda _: None, repeatable=True)


_cut_seals = load_script("cut_seals")


def cut_seals(keys: Keys, claim: Claim, newest: Mapping[str, int], /) -> Command[bool]:
    """Cut the entries of a group to the seals that its rows have now; False if it was lost."""
    args = pack((str(claim.char_id), str(claim.token), {i: str(s) for i, s in newest.items()}))
    script_keys = (keys.claimed, keys.seals)
    return Command(_cut_seals, script_keys, (args,), bool, claim.char_id, repeatable=True)


_read_seals = load_script("read_seals")


def read_seals(keys: Keys, ids: Sequence[str], /) -> Command[dict[str, Seals]]:
    """Read what Redis knows of the history of cores and sessions, by id."""

    def parse(reply: Raw) -> dict[str, Seals]:
        entries = [raw and raw.decode(errors="replace") for raw in reply]
        return {i: seals_of(0, entry) for i, entry in zip(ids, entries, strict=True)}

    return Command(_read_seals, (keys.seals,), (pack([*ids]),), parse, repeatable=True)


_note_deletion = load_script("note_deletion")


def note_deletion(keys: Keys, char_id: int, /) -> Command[bool]:
    """Note that a deletion has begun, and end a claim: its snapshot does not know of it.

    False if it was noted before.

    A row that is deleted without such a note is of a history that Redis has forgotten.
    """
    args = (char_id,)
    script_keys = (keys.core(char_id), keys.dirty, keys.claimed, keys.since, keys.seals)
    # Repeatable: the second time, it was noted before, so the note is not taken back.
    return Command(_note_deletion, script_keys, args, bool, char_id, repeatable=True)
