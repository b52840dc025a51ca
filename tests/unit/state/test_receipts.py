"""A receipt is the version that it was, and says which change it is of."""

from __future__ import annotations

import copy
import json
import pickle
import time

import pytest

from statesync import Receipt
from statesync.errors import InvalidInput
from statesync.state import receipts

NONCE = "0" * 12 + "7" + "0" * 19


def test_it_is_an_int() -> None:
    receipt = Receipt(3, 7, NONCE)
    assert receipt == 3
    assert (str(receipt), f"{receipt}", repr(receipt)) == ("3", "3", "3")
    assert json.dumps({"version": receipt}) == '{"version": 3}'
    assert hash(receipt) == hash(3)
    assert receipt + 1 == 4


def test_it_keeps_what_it_says_when_it_is_copied_or_kept() -> None:
    receipt = Receipt(3, 7, NONCE)
    for again in (copy.copy(receipt), pickle.loads(pickle.dumps(receipt))):  # noqa: S301
        assert (again, again.char_id, again.nonce) == (3, 7, NONCE)
    assert (Receipt(3).char_id, Receipt(3).nonce) == (None, None)


def test_a_nonce_is_a_uuid() -> None:
    spelled = f"{NONCE[:8]}-{NONCE[8:12]}-{NONCE[12:16]}-{NONCE[16:20]}-{NONCE[20:]}"
    assert Receipt(3, 7, spelled.upper()).nonce == NONCE
    for wrong in ("x", "", 5):
        if wrong:
            with pytest.raises(InvalidInput, match="is not a nonce"):
                Receipt(3, 7, wrong)  # type: ignore[arg-type]


def test_a_new_nonce_is_one_of_its_kind_and_knows_its_time() -> None:
    before = time.time()
    made = {receipts.new_nonce() for _ in range(1000)}
    assert len(made) == 1000
    assert all(Receipt(1, 1, nonce).nonce == nonce for nonce in made)
    after = time.time()
    assert all(before - 0.001 <= receipts.made_at(nonce) <= after for nonce in made)
