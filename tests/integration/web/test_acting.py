"""Acting takes all of: an operator's login, its token, and a form of this very site."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette

from statesync.hot.store import HotStore
from tests.integration.web.visitors import OPERATOR, VIEWER, Visitor

pytestmark = pytest.mark.usefixtures("quarantined")

ACTIONS = ("/quarantine/retry", "/quarantine/discard")


def is_untouched(hot: HotStore) -> bool:
    marks = hot.sync_state(7)
    return marks.quarantine is not None and not marks.dirty


def test_an_operator_acts(operator: Visitor, hot: HotStore) -> None:
    assert operator.act("/quarantine/retry", name="7").status_code == 303
    assert hot.sync_state(7).dirty


def test_this_machine_alone_is_not_enough(visitor: Visitor, hot: HotStore) -> None:
    for path in ACTIONS:
        assert visitor.post(path, name="7").status_code == 401
    assert is_untouched(hot)


def test_a_viewer_may_not(app: Starlette, hot: HotStore) -> None:
    visitor = Visitor(app)
    visitor.log_in(*VIEWER)
    for path in ACTIONS:
        answer = visitor.act(path, name="7")
        assert answer.status_code == 403
        assert "may only read" in answer.text
    assert "Retry 7" not in visitor.get("/quarantine").text
    assert is_untouched(hot)


def test_a_missing_or_forged_token(app: Starlette, operator: Visitor, hot: HotStore) -> None:
    other = Visitor(app, base=operator.base)
    other.log_in(*OPERATOR)
    for token in ("", "forged", "\u00fc", other.csrf_token()):
        for path in ACTIONS:
            answer = operator.post(path, name="7", csrf_token=token)
            assert answer.status_code == 403, token
    assert is_untouched(hot)


def test_a_form_of_another_site(operator: Visitor, hot: HotStore) -> None:
    token = operator.csrf_token()
    for origin in (
        None,
        "null",
        "https://evil.example",
        "https://ops.example:8443",
        "https://ops.example.x",
        "https://ops.example, https://evil.example",
    ):
        answer = operator.post("/quarantine/retry", origin, name="7", csrf_token=token)
        assert answer.status_code == 403, origin
    assert is_untouched(hot)


def test_reading_changes_nothing(operator: Visitor, hot: HotStore) -> None:
    for path in ACTIONS:
        assert operator.get(f"{path}?name=7").status_code == 405
    assert is_untouched(hot)


def test_other_methods_get_nowhere(visitor: Visitor) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "ODD"):
        assert visitor.client.request(method, "/quarantine/retry").status_code == 403


def test_a_body_that_is_too_large_or_no_form(operator: Visitor) -> None:
    assert operator.post("/quarantine/retry", name="7" * 20_000).status_code == 413
    for kind, body in (
        ("text/plain", b"name=7"),
        ("application/x-www-form-urlencoded", b"\xff"),
        ("application/x-www-form-urlencoded", b"&".join([b"a=1"] * 99)),
    ):
        headers = {"Origin": operator.base, "Content-Type": kind}
        answer = operator.client.post("/quarantine/retry", content=body, headers=headers)
        assert answer.status_code == 413
