"""What a transaction sets: our limits, and the options of the URL, whatever is in them."""

from __future__ import annotations

import pytest

from statesync import Settings
from statesync.durable import database
from statesync.durable.limits import limits, opening
from statesync.errors import SettingsError

URL = "postgresql://bob@db/game"
OURS = {
    "statement_timeout": "120s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "15s",
    "timezone": "UTC",
}


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ("", {}),
        ("-csearch_path%3Dgm", {"search_path": "gm"}),
        ("-c%20lock_timeout%3D50ms+--work-mem%3D1MB", {"lock_timeout": "50ms", "work_mem": "1MB"}),
        ("-c%20search_path%3Da,%5C%20b", {"search_path": "a, b"}),
    ],
)
def test_options_of_the_url_win(options: str, more: dict[str, str]) -> None:
    query = f"?options={options}" if options else ""
    assert limits(Settings(database_url=URL + query)) == OURS | more


@pytest.mark.parametrize("options", ["-c", "search_path=gm", "-c%20a%3Db%20-B%202"])
def test_other_options_are_refused_by_name(options: str) -> None:
    with pytest.raises(SettingsError, match=r"DATABASE_URL.*options in it -c name=value"):
        database.connect(Settings(database_url=f"{URL}?options={options}"))


def test_a_value_is_a_literal_whatever_is_in_it() -> None:
    assert opening({"a.b": "it's 5% \\"}) == r"SET LOCAL a.b = E'it\x27s 5\x25 \x5c'"
    assert opening({"p": '"$user", gm', "z": "UTC"}) == (
        "SET LOCAL p = E'$user', E'gm'; SET LOCAL z = E'UTC'"
    )
