"""Owns axe, which finds what a page makes hard for people who cannot see or point: from npm."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

__all__ = ["violations"]

_PACKAGE = "axe-core@4.14.1"
_NPM_SECONDS = 60


def violations(page: Page) -> list[str]:
    """Return what axe finds on a page, a line each; skip the test if npm cannot give axe."""
    page.evaluate(_source())
    found: dict[str, Any] = page.evaluate("axe.run()")
    return [
        f"{one['id']}: {one['help']}: {node['html']}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


@functools.cache
def _source() -> str:
    npm = shutil.which("npm") or pytest.skip("npm is not installed")
    with tempfile.TemporaryDirectory(prefix="statesync-axe-") as folder:
        try:
            packed = subprocess.run(
                [npm, "pack", "--silent", _PACKAGE],
                cwd=folder,
                capture_output=True,
                text=True,
                check=True,
                timeout=_NPM_SECONDS,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"npm gives no {_PACKAGE}: {error}")
        with tarfile.open(Path(folder, packed.stdout.strip().splitlines()[-1])) as archive:
            script = archive.extractfile("package/axe.min.js")
            assert script
            return script.read().decode()
