"""Owns the headless Chromium of the tests, if it is installed: the system's own, not a download."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

__all__ = ["browser"]

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def _program() -> str:
    found = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if not found:
        pytest.skip("chromium is not installed")
    return found


@contextmanager
def browser() -> Iterator[Browser]:
    """Run a Chromium; skip the test if there is none."""
    # Its sandbox does not work for root, and a container gives /dev/shm 64 MB.
    flags = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=_program(), args=flags)
        yield running
        running.close()
