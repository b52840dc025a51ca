"""Owns the page of the runbooks: docs/runbooks.md, which travels with the package."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from statesync.web.rendering import FOLDER, render

__all__ = ["PAGE", "html_of", "routes", "show_runbooks"]

PAGE = "/runbooks"


def show_runbooks(request: Request) -> Response:
    """Show all runbooks; each heading is an anchor, as on the pages of a forge."""
    return render(request, "runbooks.html", runbooks=_runbooks())


@cache
def _runbooks() -> Markup:
    package = FOLDER.parent
    installed = package / "runbooks.md"
    text = installed if installed.is_file() else package.parent / "docs" / "runbooks.md"
    return html_of(text.read_text(encoding="utf-8"))


def html_of(markdown: str) -> Markup:
    """Return our own Markdown as HTML, each heading with the anchor that links to it have."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(markdown)
    for token, following in pairwise(tokens):
        if token.type == "heading_open":
            token.attrSet("id", _anchor(following.content))
        _keep_links_of_the_page(token.children or [])
    return Markup(reader.renderer.render(tokens, reader.options, {}))  # noqa: S704


def _keep_links_of_the_page(tokens: Sequence[Token]) -> None:
    """Turn links to other documents into text: they are not here."""
    is_here = True
    for token in tokens:
        if token.type == "link_open":
            is_here = str(token.attrGet("href")).startswith("#")
        if token.type in ("link_open", "link_close") and not is_here:
            token.tag, token.attrs = "span", {}


def _anchor(heading: str) -> str:
    """Return the anchor of a heading, as forges make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


routes = [Route(PAGE, show_runbooks, methods=["GET"])]
