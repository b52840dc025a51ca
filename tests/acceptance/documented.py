"""The blocks of a page in docs: tests run what stands there, so that the page cannot be wrong."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

__all__ = ["block", "script"]

_DOCS = Path(__file__).parents[2] / "docs"


def block(page: str, first_words: str) -> list[str]:
    """Return the statements of the block of ``page`` that begins with these words.

    SQL ends with a semicolon; any other statement is a line, without its comment.
    """
    language, text = _find(page, first_words)
    if language == "sql":
        return [" ".join(part.split()) for part in text.split(";") if part.strip()]
    lines = [" ".join(line.partition(" # ")[0].split()) for line in text.split("\n")]
    return [line for line in lines if line]


def script(page: str, first_words: str) -> str:
    """Return the block of ``page`` that begins with these words, as it stands there."""
    return _find(page, first_words)[1]


def _find(page: str, first_words: str) -> tuple[str, str]:
    """Return the language and the text of a block, which may stand in a list."""
    text = (_DOCS / page).read_text()
    for language, indented in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL):
        found = textwrap.dedent(indented)
        if found.startswith(first_words):
            return language, found
    raise AssertionError(f"{page} has no block that begins with {first_words}")
