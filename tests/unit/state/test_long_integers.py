"""An integer of more digits than Python prints is refused as any other wrong value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from statesync.errors import InvalidInput, InvalidSessionType
from statesync.hot.commands.together import Together
from statesync.hot.fields import check_option
from statesync.state.characters import encode_character
from statesync.state.fields import check_char_id, check_version
from statesync.state.receipts import Receipt
from statesync.state.references import session_uuid
from statesync.state.session_types import find_type
from statesync.state.sessions import encode_session

LONG: Any = 10**5000


@pytest.mark.parametrize(
    "call",
    [
        lambda: encode_character({"gold": LONG}),
        lambda: encode_character({"gold": -LONG}),
        lambda: encode_character({"stats": {"luck": LONG}}),
        lambda: encode_character({"bio": {LONG: 1}}),
        lambda: encode_character({LONG: "1"}),
        lambda: encode_session("combat", {LONG: "1"}),
        lambda: check_char_id(LONG),
        lambda: check_version(LONG),
        lambda: session_uuid(LONG),
        lambda: Receipt(1, 1, LONG),
        lambda: Together().expect(1, version=LONG),
        lambda: Together().expect(1, version=-LONG),
        lambda: check_option("durable", LONG),
        lambda: find_type(LONG),
    ],
)
def test_it_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises((InvalidInput, InvalidSessionType)) as refused:
        call()
    assert len(str(refused.value)) < 400
