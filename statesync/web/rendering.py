"""Owns how pages become HTML: escaped, with what players wrote made visible."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse

from statesync.lifecycle.realms import Realms
from statesync.observe.inspection import Compared
from statesync.state.fields import MAX_ID, printable
from statesync.web.access import is_direct

__all__ = ["FOLDER", "code", "duration", "id_in", "link", "realm_of", "render", "utc"]

FOLDER = Path(__file__).parent
_LONGEST = 2000
_MOST_FIELDS = 300


def render(
    request: Request, template: str, *, status_code: int = 200, **context: Any
) -> HTMLResponse:
    """Answer with a page; ``context`` is what its template names."""
    state = request.app.state
    login = request.state.login
    is_reader = login is not None or is_direct(request)
    shared = {
        "access": state.access,
        "login": login,
        "is_reader": is_reader,
        "path": request.scope["path"],
        "status_code": status_code,
        "realm_names": [name for name in state.realms.names if name] if is_reader else [],
        "realm": _realm_shown(request) if is_reader else "",
        "flower_url": state.flower_url,
        "link": lambda path, **query: link(request, path, **query),
    }
    html = _environment.get_template(template).render(shared | context)
    return HTMLResponse(html, status_code=status_code)


def realm_of(request: Request) -> str:
    """Return the realm that a request is about; a page that names none is about the first one.

    Raises InvalidInput if there is no such realm, or if a form has to name one.
    """
    realms: Realms = request.app.state.realms
    named = _named_realm(request)
    if not named and request.method in ("GET", "HEAD"):
        return realms.names[0]
    return realms.settings(named).realm


def _named_realm(request: Request) -> str:
    return request.state.form.get("realm") or request.query_params.get("realm", "")


def _realm_shown(request: Request) -> str:
    """Return the realm that a page is shown in, also one that says that there is no such realm."""
    names: list[str] = request.app.state.realms.names
    named = _named_realm(request)
    return named if named in names else names[0]


def link(request: Request, path: str, **query: object) -> str:
    """Return the link to a page in the same realm."""
    realm = _realm_shown(request)
    given = {name: value for name, value in query.items() if value is not None}
    words = urlencode(({"realm": realm} if realm else {}) | given)
    return f"{path}?{words}" if words else path


def id_in(request: Request, name: str) -> int | None:
    """Return the id that a part of the query gives; None if it is none."""
    text = request.query_params.get(name, "")
    found = int(text[:20]) if text.isascii() and text.isdigit() else 0
    return found if 0 < found <= MAX_ID else None


def duration(seconds: float | None) -> str:
    """Return a time that has passed, as people say it."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def utc(moment: float | datetime | None) -> str:
    """Return a time, in Unix seconds (0 is none) or as it is, for people.

    Another writer's score may be no time at all.
    """
    if not moment:
        return "-"
    try:
        at = datetime.fromtimestamp(moment, UTC) if isinstance(moment, int | float) else moment
        return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return "a time that is none"


def _memory(count: int | None) -> str:
    """Return a number of bytes, as people say it."""
    if count is None:
        return "-"
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,}"


def code(text: str) -> Markup:
    """Return a text of ours with what stands between backticks as code."""
    shown = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(printable(text))))
    return Markup(shown)  # noqa: S704 - what is between the tags is escaped


def _cut(text: str) -> str:
    """Return a text that is not too long for a page: a core may hold a megabyte."""
    shown = text[:_LONGEST]
    return shown if shown == text else f"{shown}… ({len(text):,} letters in all)"


def _foremost(rows: Sequence[Compared]) -> Sequence[Compared]:
    """Return the fields that a page shows: of very many, those that differ first."""
    if len(rows) <= _MOST_FIELDS:
        return rows
    return sorted(rows, key=lambda row: not row.differs)[:_MOST_FIELDS]


def _shown(value: Any) -> Any:
    """Make visible what any value in a page holds; it is escaped afterwards."""
    return value if isinstance(value, Markup) else printable(value)


_filters: Mapping[str, Any] = {
    "code": code,
    "cut": _cut,
    "duration": duration,
    "foremost": _foremost,
    "memory": _memory,
    "number": _number,
    "utc": utc,
}
_environment = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters.update(_filters)
_environment.globals["now"] = time.time
