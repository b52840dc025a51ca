"""Who may read the operator's page, and who may act: nobody else gets in."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
from starlette.applications import Starlette

from statesync.settings import Settings
from tests.integration.web.visitors import HERE, OPERATOR, VIEWER, Visitor

PAGES = (
    *("/", "/quarantine", "/conflicts", "/conflict?id=1", "/character?id=1", "/losses", "/actions"),
    *("/runbooks", "/nowhere"),
)
STRANGERS = {
    "elsewhere": {"peer": "10.0.0.9", "base": "http://10.0.0.1:9180"},
    "elsewhere, as localhost": {"peer": "10.0.0.9"},
    "no address": {"peer": ""},
    "a name that leads to 127.0.0.1": {"base": "http://rebound.example:9180"},
    "a name that looks like an address": {"base": "http://127.0.0.1.evil.example"},
    **{
        f"a proxy by {name}": {"headers": {name: value}}
        for name, value in {
            "X-Forwarded-For": "127.0.0.1",
            "X-Forwarded-Proto": "http",
            "Forwarded": "for=127.0.0.1",
            "Via": "1.1 proxy",
            "X-Real-IP": "127.0.0.1",
            "True-Client-IP": "127.0.0.1",
            "X-Cluster-Client-IP": "127.0.0.1",
            "Fastly-Client-IP": "127.0.0.1",
            "CF-Connecting-IP": "127.0.0.1",
            "X-Original-Host": "ops.example",
            "X-Envoy-External-Address": "127.0.0.1",
        }.items()
    },
    "a page of another site": {"headers": {"Origin": "https://evil.example"}},
    "our page by another name": {"headers": {"Referer": "https://ops.example/"}},
    "a script of another site": {"headers": {"Sec-Fetch-Site": "cross-site"}},
}


def test_a_stranger_reads_nothing_but_the_probes(app: Starlette) -> None:
    for stranger, how in STRANGERS.items():
        visitor = Visitor(app, **how)  # type: ignore[arg-type]
        for path in PAGES:
            answer = visitor.get(path)
            assert answer.status_code == 401, (stranger, path)
            assert "Quarantine" not in answer.text
        for path in ("/live", "/metrics", "/static/style.css"):
            assert visitor.get(path).status_code == 200, (stranger, path)


def test_this_machine_reads_without_a_password(app: Starlette) -> None:
    for base in (HERE, "http://localhost:9180", "http://[::1]:9180"):
        for peer in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
            assert Visitor(app, peer=peer, base=base).get("/login").status_code == 200
            assert "Quarantine" in Visitor(app, peer=peer, base=base).get("/").text


def test_a_link_from_elsewhere_leads_to_this_machine(app: Starlette) -> None:
    flower = {"Sec-Fetch-Site": "same-site", "Referer": "http://localhost:5555/"}
    dashboard = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Referer": "http://grafana.example/",
    }
    for headers in (flower, dashboard, {"Sec-Fetch-Site": "none"}):
        assert Visitor(app, headers=headers).get("/quarantine").status_code == 200, headers


def test_a_proxy_that_says_nothing_of_itself_speaks_http_1_0(app: Starlette) -> None:
    async def old_fashioned(scope: dict[str, object], receive: object, send: object) -> None:
        await app({**scope, "http_version": "1.0"}, receive, send)  # type: ignore[arg-type]

    assert Visitor(old_fashioned).get("/").status_code == 401  # type: ignore[arg-type]


def test_a_user_reads_from_elsewhere(app: Starlette) -> None:
    for user in (VIEWER, OPERATOR):
        visitor = Visitor(app, **STRANGERS["elsewhere"])  # type: ignore[arg-type]
        answer = visitor.log_in(*user, next="/quarantine?cursor=7")
        assert (answer.status_code, answer.headers["location"]) == (303, "/quarantine?cursor=7")
        assert visitor.get("/quarantine").status_code == 200
        visitor.post("/logout", csrf_token=visitor.csrf_token())
        assert visitor.get("/quarantine").status_code == 401


def test_logging_out_ends_the_login_itself(app: Starlette, operator: Visitor) -> None:
    thief = Visitor(app, peer="10.0.0.66", base=operator.base)
    thief.client.cookies = operator.client.cookies
    assert thief.get("/quarantine").status_code == 200
    operator.post("/logout", csrf_token=operator.csrf_token())
    assert thief.get("/quarantine").status_code == 401


def test_a_wrong_name_or_password_is_refused(app: Starlette) -> None:
    visitor = Visitor(app, **STRANGERS["elsewhere"])  # type: ignore[arg-type]
    for name, password in (
        (OPERATOR[0], VIEWER[1]),
        (VIEWER[0], OPERATOR[1]),
        (OPERATOR[0], ""),
        ("", ""),
        (OPERATOR[0], OPERATOR[1] + " "),
        ("%FC%FF", "\u00fc"),
    ):
        answer = visitor.log_in(name, password)
        assert answer.status_code == 403
        assert "wrong" in answer.text
        assert visitor.get("/").status_code == 401


def test_guessing_is_slowed_down_for_one_address_alone(app: Starlette) -> None:
    guesser = Visitor(app, peer="10.0.0.66", base="http://10.0.0.1:9180")
    codes = [guesser.log_in(OPERATOR[0], f"guess {n}").status_code for n in range(12)]
    assert codes == [403] * 10 + [429] * 2
    answer = guesser.log_in(*OPERATOR)
    assert answer.status_code == 429, "the right one does not stand out"
    assert 0 < int(answer.headers["retry-after"]) <= 6
    other = Visitor(app, peer="10.0.0.9", base="http://10.0.0.1:9180")
    assert other.log_in(*OPERATOR).status_code == 303


def test_guessing_locks_nobody_out_who_has_logged_in_before(app: Starlette) -> None:
    """Behind a proxy all have its address."""
    olga, guesser = (Visitor(app, peer="10.0.0.1", base="http://ops.example") for _ in range(2))
    assert olga.log_in(*OPERATOR).status_code == 303
    olga.post("/logout", csrf_token=olga.csrf_token())
    guesser.client.cookies.set("statesync_device", "guessed")
    codes = [guesser.log_in(OPERATOR[0], f"guess {n}").status_code for n in range(10)]
    assert codes == [403] * 9 + [429]
    assert olga.log_in(*OPERATOR).status_code == 303
    codes = [olga.log_in(OPERATOR[0], f"guess {n}").status_code for n in range(10)]
    assert codes == [403] * 9 + [429], "a stolen cookie is no way around"


def test_guessing_through_a_proxy_locks_nobody_out_on_this_machine(app: Starlette) -> None:
    guesser = Visitor(app, headers={"X-Forwarded-For": "10.0.0.66"})
    codes = [guesser.log_in(OPERATOR[0], f"guess {n}").status_code for n in range(11)]
    assert codes == [403] * 10 + [429]
    assert Visitor(app).log_in(*OPERATOR).status_code == 303


def test_a_site_has_one_address_of_ipv6(app: Starlette) -> None:
    def code(peer: str) -> int:
        visitor = Visitor(app, peer=peer, base="http://10.0.0.1:9180")
        status: int = visitor.log_in(OPERATOR[0], "guess").status_code
        return status

    assert [code(f"2001:db8::{n}:1") for n in range(11)] == [403] * 10 + [429]
    assert code("2001:db8:0:1::1") == 403
    assert [code("::ffff:10.0.0.7") for _ in range(10)] == [403] * 10
    assert (code("10.0.0.7"), code("::ffff:10.0.0.8")) == (429, 403)


def test_logins_are_told_in_the_log_and_guesses_seldom(
    app: Starlette, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "statesync.web.logins"):
        assert Visitor(app, peer="10.0.0.9").log_in(*OPERATOR).status_code == 303
        for number in range(50):
            Visitor(app, peer=f"10.0.1.{number}").log_in("my password", "a secret")
    lines = [line for line in caplog.messages if line.startswith("login")]
    assert lines == [
        "login: olga (operator) from 10.0.0.9",
        *(f"login refused: wrong name or password, from 10.0.1.{n}" for n in range(10)),
    ]


def test_a_login_leads_to_no_other_site(app: Starlette) -> None:
    evil = ("//evil.example", "https://evil.example", "/\\evil.example", "/\t/evil.example", "x")
    for target in evil:
        answer = Visitor(app).log_in(*VIEWER, next=target)
        assert answer.headers["location"] == "/", target


def test_the_cookie_is_for_this_site_and_no_script(app: Starlette) -> None:
    plain = Visitor(app).log_in(*VIEWER).headers["set-cookie"].lower()
    assert {"httponly", "samesite=strict", "max-age=28800"} <= {*plain.split("; ")}
    assert "secure" not in plain.split("; ")
    for visitor in (
        Visitor(app, base="https://ops.example"),
        Visitor(app, headers={"X-Forwarded-Proto": "https"}),
    ):
        assert "secure" in visitor.log_in(*VIEWER).headers["set-cookie"].lower().split("; ")


def test_without_users_nobody_acts_and_the_page_says_how(
    settings: Settings, new_app: Callable[[Settings], Starlette]
) -> None:
    app = new_app(settings)
    assert "STATESYNC_WEB_OPERATOR=name:password" in Visitor(app).text("/login")
    stranger = Visitor(app, **STRANGERS["elsewhere"])  # type: ignore[arg-type]
    assert "STATESYNC_WEB_VIEWER=name:password" in stranger.get("/").text
    assert stranger.log_in("", "").status_code == 403
    with_operator = replace(settings, web_operator=":".join(OPERATOR))
    assert "there is no operator" not in Visitor(new_app(with_operator)).text("/login")


def test_every_answer_tells_the_browser_to_trust_nothing_else(visitor: Visitor) -> None:
    for path in ("/", "/login", "/nowhere", "/static/live.js"):
        headers = visitor.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
