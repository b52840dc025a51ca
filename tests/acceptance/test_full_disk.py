"""A full disk of PostgreSQL is named, play goes on, and all is saved when there is room."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import psycopg2
import pytest
from sqlalchemy import Engine, make_url

from statesync import Settings
from statesync.embedded.servers import Servers
from statesync.embedded.stack import Stack
from statesync.hot.commands.troubles import Server, Work
from statesync.hot.store import HotStore
from tests.acceptance.command_line import run_json
from tests.acceptance.conftest import wait_until
from tests.acceptance.test_doctor import examine

pytestmark = pytest.mark.slow

CHARACTERS = range(1, 2001)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, sync_seconds=1)


@pytest.fixture
def small_disk(embedded: Servers, settings: Settings, engine: Engine) -> Iterator[Path]:
    """A disk of two megabytes, which has the table of characters."""
    disk = Path(mkdtemp(prefix="statesync-disk-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk])
    if mounted.returncode:
        disk.rmdir()
        pytest.skip("to mount a small disk takes an administrator")
    (files := disk / "files").mkdir()
    for folder in (disk, files):
        os.chown(folder, (embedded.folder / "postgres").stat().st_uid, -1)
    url = make_url(settings.database_url)
    connection = psycopg2.connect(
        host=str(embedded.sockets), user=url.username, dbname=url.database
    )
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE TABLESPACE small LOCATION '{files}'")
            cursor.execute("ALTER TABLE characters SET TABLESPACE small")
            yield disk
            cursor.execute("ALTER TABLE characters SET TABLESPACE pg_default")
            cursor.execute("DROP TABLESPACE small")
    finally:
        connection.close()
        subprocess.run(["umount", disk], check=True)
        disk.rmdir()


def test_full_disk_of_postgresql(
    settings: Settings, stack: Stack, hot: HotStore, small_disk: Path
) -> None:
    stack.settings = settings
    stack.start_worker()
    stack.start_beat()
    filler = small_disk / "filler"
    with contextlib.suppress(OSError):
        filler.write_bytes(b"x" * shutil.disk_usage(small_disk).free)
    for char_id in CHARACTERS:
        hot.create(char_id, state="exploration", note="x" * 500)
    wait_until(hot.troubles)
    found = examine(settings, "troubles", status=1)["troubles postgresql"]
    assert "No space left on device" in found["found"]
    assert "make room on it" in found["do"]
    problems = run_json(settings, "status", status=1)["problems"]
    assert any("PostgreSQL refuses saves" in problem for problem in problems)
    assert hot.troubles()[Server.POSTGRESQL].works == {Work.BACKUP}
    assert hot.status().quarantined == 0, "it is no character's fault"

    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    assert run_json(settings, "pending", "--wait", "--timeout", "50")["characters"] == []
    wait_until(lambda: not hot.troubles())
    assert examine(settings, "troubles")["troubles"]["status"] == "ok"
