"""A Redis whose disk is full takes no changes: doctor, `status` and an alert name it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import pytest
import redis

from statesync import GameStore, Settings
from statesync.embedded.child import Child
from statesync.embedded.servers import valkey_binary
from statesync.errors import RedisUnavailable
from tests.acceptance.command_line import run_json
from tests.acceptance.conftest import wait_until
from tests.acceptance.test_doctor import examine
from tests.alerts import check_fire, scrape
from tests.ports import free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of two megabytes."""
    disk = Path(mkdtemp(prefix="statesync-disk-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk])
    if mounted.returncode:
        disk.rmdir()
        pytest.skip("to mount a small disk takes an administrator")
    yield disk
    subprocess.run(["umount", disk], check=True)
    disk.rmdir()


@pytest.fixture
def client(small_disk: Path, tmp_path: Path) -> Iterator[redis.Redis]:
    """A Redis that keeps its append-only file on the small disk."""
    port = free_port()
    # With `appendfsync always` the server ends if it cannot write.
    options = {"port": port, "dir": small_disk, "appendonly": "yes", "appendfsync": "everysec"}
    options |= {"save": "''", "bind": "127.0.0.1"}
    config = tmp_path / "valkey.conf"
    config.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    server = Child("Redis", [str(valkey_binary()), str(config)], tmp_path / "log", cwd=tmp_path)
    with redis.Redis(port=port) as client:

        def answers() -> bool:
            with contextlib.suppress(redis.RedisError):
                return bool(client.ping())
            return False

        server.start()
        try:
            server.wait_ready(answers)
            yield client
        finally:
            server.kill()


def test_full_disk_of_redis(
    settings: Settings, client: redis.Redis, small_disk: Path, tmp_path: Path
) -> None:
    port = client.connection_pool.connection_kwargs["port"]
    settings = replace(settings, redis_url=f"redis://127.0.0.1:{port}/0")
    with GameStore(settings) as store:
        store.create(1, state="exploration")
        before = scrape(settings, tmp_path)
        filler = small_disk / "filler"
        with contextlib.suppress(OSError):
            filler.write_bytes(b"x" * shutil.disk_usage(small_disk).free)

        def is_refused() -> bool:
            try:
                store.update(1, note="x" * 5000)
            except RedisUnavailable as error:
                return "it cannot save to its disk and takes no changes" in str(error)
            return False

        wait_until(is_refused)
        check_fire(
            tmp_path, before, scrape(settings, tmp_path),
            "ServerRefuses server=redis", "CheckFailed check=redis",
        )  # fmt: skip
        found = examine(settings, "redis", "beat", status=1)
        assert "Redis takes no changes, and the game stands still" in found["persistence"]["found"]
        assert "Redis takes no changes" in found["beat"]["found"]
        problems = run_json(settings, "status", status=1)["problems"]
        assert problems[0] == f"Redis: {found['persistence']['found']}"

        filler.unlink()
        wait_until(lambda: not is_refused())
        assert examine(settings, "redis")["persistence"]["status"] == "ok"
