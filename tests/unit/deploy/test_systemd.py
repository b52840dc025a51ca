"""The units are what systemd accepts, may do little, and name what exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from statesync.settings import Settings
from statesync.worker.config import celery_settings
from tests.unit.deploy.named import ROOT, check_command

FOLDER = ROOT / "deploy" / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
NAMES = [unit.name.replace("@.", "@1.") for unit in UNITS]
LIVES = {"statesync-worker@.service", "statesync-restore@.service", "statesync-beat.service"}

needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed"
)


def values(unit: Path, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), re.MULTILINE)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of a machine with the units and the programs that they start."""
    units = tmp_path / "etc" / "systemd" / "system"
    shutil.copytree(FOLDER, units)
    for name in ("sysinit", "basic", "shutdown", "network-online"):
        (units / f"{name}.target").write_text("[Unit]\n")
    for program in ("celery", "statesync"):
        path = tmp_path / "opt" / "statesync" / "bin" / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    return tmp_path


def analyze(root: Path, *words: str) -> str:
    command = ["systemd-analyze", words[0], f"--root={root}", *words[1:]]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@needs_systemd
def test_systemd_accepts_the_units(root: Path) -> None:
    # Other releases may have something to say of the targets that the test makes.
    assert "statesync" not in analyze(root, "verify", "--man=no", "statesync.target", *NAMES)


@needs_systemd
def test_units_are_hardened(root: Path) -> None:
    """A score of 20 is an exposure of 2.0, on systemd's scale from 0 to 10."""
    for name in NAMES:
        analyze(root, "security", "--offline=true", "--threshold=20", name)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_commands_exist(unit: Path) -> None:
    [command] = values(unit, "ExecStart")
    check_command(command.split())
    assert values(unit, "EnvironmentFile")[0] == "/etc/statesync/statesync.env"


def test_what_has_a_watchdog_shows_itself() -> None:
    assert {unit.name for unit in UNITS if values(unit, "WatchdogSec")} == LIVES
    assert {unit.name for unit in UNITS if "notify" in values(unit, "Type")} == LIVES


def test_workers_have_time_to_end_and_the_watchdog_does_not_cut_it_short() -> None:
    soft = celery_settings(Settings())["worker_soft_shutdown_timeout"]
    for unit in UNITS:
        for seconds in values(unit, "TimeoutStopSec"):
            assert soft + 10 < int(seconds) < int(values(unit, "WatchdogSec")[0])


def test_all_but_the_migration_start_again() -> None:
    again = {unit.name for unit in UNITS if values(unit, "Restart") == ["always"]}
    assert {unit.name for unit in UNITS} - again == {"statesync-migrate.service"}


def test_the_target_starts_all_of_them() -> None:
    wanted = " ".join(values(FOLDER / "statesync.target", "Wants")).split()
    assert sorted(wanted) == sorted(NAMES)


def test_a_worker_may_yield_to_the_game() -> None:
    """``os.nice`` is among what systemd calls @resources."""
    assert "@resources" not in (FOLDER / "statesync-.service.d" / "common.conf").read_text()


def test_the_user_is_made() -> None:
    [user] = values(FOLDER / "statesync-.service.d" / "common.conf", "User")
    assert f"\nu {user} " in (FOLDER / "statesync.sysusers").read_text()
