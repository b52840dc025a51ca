"""The runbooks as a page: anchors as checks name them, and no way out of it."""

from __future__ import annotations

import re
from pathlib import Path

from statesync.web.runbooks import html_of

MARKDOWN = """# Runbooks

## Time to live

See [beat](#beat), [rights](rights.md#redis), `<b>` and <script>alert(1)</script>.

| a | b |
| --- | --- |
| 1 | 2 |

## `status` says: no worker
"""


def test_headings_are_anchors() -> None:
    html = html_of(MARKDOWN)
    assert '<h2 id="time-to-live">' in html
    assert '<h2 id="status-says-no-worker">' in html
    assert "<td>2</td>" in html


def test_only_links_within_the_page_are_links() -> None:
    html = html_of(MARKDOWN)
    assert '<a href="#beat">beat</a>' in html
    assert "<span>rights</span>" in html
    assert html.count("<a ") == 1


def test_html_in_markdown_is_text() -> None:
    assert "<script" not in html_of(MARKDOWN)


def test_the_page_has_every_heading_of_the_document() -> None:
    document = Path(__file__).parents[3] / "docs" / "runbooks.md"
    headings = re.findall(r"^## (.*)$", document.read_text(), re.MULTILINE)
    assert len(headings) > 10
    html = html_of(document.read_text())
    assert html.count("<h2 id=") == len(headings)
