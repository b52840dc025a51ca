"""The blocks of a page in docs: tests run what stands there, so that the page cannot be wrong."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["block"]

_DOCS = Path(__file__).parents[2] / "docs"


def block(page: str, first_words: str) -> list[str]:
    """Return the statements of the block of ``page`` that begins with these words.

    SQL ends with a semicolon; any other statement is a line.
    """
    for language, text in re.findall(r"```(\w*)\n(.*?)```", (_DOCS / page).read_text(), re.DOTALL):
        if text.startswith(first_words):
            ends = ";" if language == "sql" else "\n"
            return [" ".join(part.split()) for part in text.split(ends) if part.strip()]
    raise AssertionError(f"{page} has no block that begins with {first_words}")
