"""Owns the overview: what is wrong now, what is unsaved, and who works on it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from statesync.observe.check import Check, CheckStatus, Topic
from statesync.settings import Settings
from statesync.web.chart import HEIGHT, WIDTH, draw
from statesync.web.rendering import realm_of, render
from statesync.web.watch import KEPT_SECONDS, SILENT_SECONDS, Answer, Point, Sample, Watch

__all__ = ["Problem", "problems_of", "routes", "show_overview", "watched_seconds"]

_SERVERS = {
    "redis": ("Redis", Topic.REDIS),
    "postgresql": ("PostgreSQL", Topic.POSTGRESQL),
    "broker": ("the broker", Topic.BROKER),
}
_LISTED = 50
"""Of realms."""
_PAGES = {
    Topic.QUARANTINE: "/quarantine",
    Topic.CONFLICTS: "/conflicts",
    Topic.LOSSES: "/losses",
}
"""What has a page of its own."""


class Problem(NamedTuple):
    """Something that is wrong now, in words, and where its runbook is."""

    status: CheckStatus
    name: str
    found: str
    do: str
    anchor: str
    page: str = ""
    """Which page of ours has more of it."""


def show_overview(request: Request) -> Response:
    """Show one realm; if there are several and none is named, all of them in a line each."""
    watch: Watch = request.app.state.watch
    realms = request.app.state.realms
    if len(realms.names) > 1 and not request.query_params.get("realm"):
        return _show_realms(request, watch)
    realm = realm_of(request)
    settings, sample = realms.settings(realm), watch.latest(realm)
    points, now = watch.samples(realm), time.time()
    status = sample.redis.value if sample.redis.is_up else None
    return render(
        request,
        "overview.html",
        problems=problems_of(sample),
        is_checked=sample.checks.value is not None,
        checked_at=sample.checks.at,
        passed=[check for check in _checks(sample) if check.status is CheckStatus.OK],
        sample=sample,
        status=status,
        figures=sample.figures.value if sample.figures.is_up else None,
        sync_seconds=settings.sync_seconds,
        unsaved=draw([(point.at, point.unsaved) for point in points], now=now),
        oldest=draw(
            [(point.at, point.oldest_seconds) for point in points],
            now=now,
            limit=settings.sync_seconds,
        ),
        watched_seconds=watched_seconds(points, now=now),
        size=(WIDTH, HEIGHT),
        is_late=_is_late(sample, settings),
        counters=_counters(status.counters if status else {}),
    )


def _show_realms(request: Request, watch: Watch) -> Response:
    lines = []
    for realm in watch.realm_names:
        sample = watch.latest(realm)
        problems = problems_of(sample)
        settings = request.app.state.realms.settings(realm)
        status = sample.redis.value if sample.redis.is_up else None
        lines.append((realm, problems, status, _is_late(sample, settings), settings.sync_seconds))
    lines.sort(key=lambda line: (not line[3], -_failed(line[1]), -len(line[1]), line[0]))
    return render(request, "realms.html", lines=lines, shown=lines[:_LISTED])


def _failed(problems: list[Problem]) -> int:
    return sum(problem.status is CheckStatus.FAIL for problem in problems)


def problems_of(sample: Sample) -> list[Problem]:
    """Return what is wrong in a realm, the worst first.

    A server that does not answer is told at once, not only by the next round of checks, and once.
    """
    away = [name for name in _SERVERS if _is_away(getattr(sample, name))]
    topics = {_SERVERS[name][1] for name in away}
    wrong = [
        check
        for check in _checks(sample)
        if check.status is not CheckStatus.OK and check.topic not in topics
    ]
    found = [_server_away(name, sample, wrong) for name in away]
    found += [_problem(check) for check in wrong if check.away not in away]
    return sorted(found, key=lambda problem: problem.status is not CheckStatus.FAIL)


def watched_seconds(points: Sequence[Point], *, now: float) -> float | None:
    """Return for how long the charts have seen anything; None if that is their whole hour."""
    seconds = now - points[0].at if points else 0.0
    return seconds if seconds < KEPT_SECONDS - SILENT_SECONDS else None


def _is_away(answer: Answer[Any]) -> bool:
    return bool(answer.at) and not answer.is_answered


def _server_away(name: str, sample: Sample, wrong: list[Check]) -> Problem:
    """Return that a server is away, with the checks that could not be made without it."""
    server, topic = _SERVERS[name]
    error = getattr(sample, name).error.rstrip(".") or "it has been silent for a while"
    found = f"{server} does not answer: {error}."
    if unmade := ", ".join(check.name for check in wrong if check.away == name):
        found += f" Not known until it does: {unmade}."
    return Problem(CheckStatus.FAIL, topic, found, "start it, or mend its URL", topic)


def _problem(check: Check) -> Problem:
    anchor = check.runbook.partition("#")[2]
    page = _PAGES.get(check.topic, "")
    return Problem(check.status, check.name, check.found, check.do, anchor, page)


def _checks(sample: Sample) -> list[Check]:
    return sample.checks.value.checks if sample.checks.value else []


def _is_late(sample: Sample, settings: Settings) -> bool:
    status = sample.redis.value
    return bool(status and (status.oldest_ms or 0) > 1000 * settings.sync_seconds)


def _counters(counters: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted((name.replace("_", " "), number) for name, number in counters.items())


routes = [Route("/", show_overview, methods=["GET"])]
