"""The rights in Redis that we ask for are what the scripts call, and what they are called with."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from statesync.hot.rights import COMMANDS, grant, is_refusal
from statesync.hot.store import HotStore

_SENT = {"client|setinfo", "evalsha", "ping", "script|load", "select", "subscribe", "unsubscribe"}


def test_user_is_known_whatever_the_hosts_are() -> None:
    """Newer Pythons refuse the brackets of an IPv6 address that is one of several hosts."""
    with HotStore("sentinel://game:p%40@h,[::1]:2/world/0") as hot:
        assert hot.user == "game"


def test_scripts_call_what_we_ask_for_and_nothing_else() -> None:
    folder = files("statesync.hot.commands")
    lua = [f for place in (folder, folder / "shared") for f in place.iterdir()]
    text = "".join(f.read_text() for f in lua if f.name.endswith(".lua"))
    called = {name.lower() for name in re.findall(r"redis\.p?call\(\s*'([A-Z]+)'", text)}
    assert called | _SENT == set(COMMANDS)


@pytest.mark.parametrize(
    ("message", "rules"),
    [
        ("User w has no permissions to run the 'script|load' command", "+script|load"),
        ("this user has no permissions to run the 'script' command or", "+script|load"),
        ("ACL failure in script: No permissions to access a channel", "&p:statesync:reverted"),
        ("can't access at least one of the keys mentioned", "~p:ac:* ~p:*:session:* ~"),
        (
            "@user_script: 1: The user executing the script can't run this command",
            "+client|setinfo +",
        ),
    ],
)
def test_grant_is_what_redis_says_is_missing(message: str, rules: str) -> None:
    assert is_refusal(Exception(message))
    assert grant(message, "w", "p:").startswith(f"ACL SETUSER w {rules}")


def test_other_errors_are_none() -> None:
    assert not is_refusal(Exception("OOM command not allowed when used memory > 'maxmemory'"))
    assert not is_refusal(Exception("READONLY You can't write against a read only replica."))
