"""Which file may replace settings of Celery, and what is refused in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from statesync import Settings
from statesync.errors import SettingsError
from statesync.worker.overrides import FIRST_LINE, read_overrides

FOREIGN = """\
# our game
import pathlib
pathlib.Path("executed").touch()
broker_url = "memory://foreign"
task_default_queue = "foreign"
"""
OURS = f"{FIRST_LINE} of Celery\nworker_concurrency = 3\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def celery(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run ``celery -A statesync`` in the working directory."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("CELERY_", "STATESYNC_"))}
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "statesync", *words],
        env=env | environ, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_a_foreign_celeryconfig_in_the_working_directory_is_left_alone(folder: Path) -> None:
    (folder / "celeryconfig.py").write_text(FOREIGN)
    shown = celery("report", STATESYNC_REDIS_URL="redis://ours:1/0").stdout
    assert "@ours:1/1" in shown
    assert "task_default_queue: 'backup'" in shown
    assert "foreign" not in shown
    assert not (folder / "executed").exists()


def test_a_foreign_celeryconfig_elsewhere_on_the_path_is_left_alone(folder: Path) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "celeryconfig.py").write_text(FOREIGN)
    shown = celery("report", PYTHONPATH=str(elsewhere), CELERY_CONFIG_MODULE="celeryconfig").stdout
    assert "task_default_queue: 'backup'" in shown
    assert "foreign" not in shown
    assert not (folder / "executed").exists()


def test_ours_in_the_working_directory_is_used(folder: Path) -> None:
    (folder / "celeryconfig.py").write_text(OURS)
    assert "worker_concurrency: 3" in celery("report").stdout


def test_a_named_file_is_used_whatever_its_first_line(folder: Path) -> None:
    (folder / "celeryconfig.py").write_text(OURS)
    (folder / "named.py").write_text("worker_concurrency = 5\n")
    shown = celery("report", STATESYNC_CELERYCONFIG="named.py").stdout
    assert "worker_concurrency: 5" in shown


def test_the_repositorys_own_file_is_ours_and_replaces_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = Path(__file__).parents[3]
    assert (root / "celeryconfig.py").read_text().startswith(FIRST_LINE)
    monkeypatch.chdir(root)
    assert read_overrides(Settings()) == {}


@pytest.mark.parametrize("first", ["", "# statesync of our own", "import os  # statesync:"])
def test_another_first_line_is_foreign(folder: Path, first: str) -> None:
    (folder / "celeryconfig.py").write_text(f"{first}\nraise RuntimeError\n")
    assert read_overrides(Settings()) == {}


def test_a_folder_of_that_name_is_foreign(folder: Path) -> None:
    (folder / "celeryconfig.py").mkdir()
    assert read_overrides(Settings()) == {}


def read(folder: Path, text: str) -> dict[str, object]:
    (folder / "named.py").write_text(text)
    return read_overrides(Settings(celeryconfig="named.py"))


def test_imports_functions_constants_and_private_names_are_no_settings(folder: Path) -> None:
    text = """
import os
from datetime import timedelta
from kombu import Queue
HOURS = 2
_cores = 4
def double(n): return 2 * n
worker_concurrency = double(_cores)
result_expires = timedelta(hours=HOURS)
redis_backend_health_check_interval = 9
"""
    names = {"worker_concurrency", "result_expires", "redis_backend_health_check_interval"}
    assert read(folder, text).keys() == names


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "worker_concurency = 1",
            "Celery has no setting worker_concurency; the closest is worker_",
        ),
        ("BROKER_URL = ''", "Celery has no setting BROKER_URL; the closest is broker_url"),
        ("a_b = None", "Celery has no setting a_b; "),
        ("\n1 / 0", "line 2: ZeroDivisionError: division by zero"),
        ("x = (", "line 1: SyntaxError: '(' was never closed"),
        ("import no_such_module", "line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise ValueError('first\\nsecond')", "line 1: ValueError: first"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(folder: Path, text: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(folder, text)
    assert str(caught.value).startswith(f"{folder / 'named.py'}")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_by_the_name_of_its_variable(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"STATESYNC_CELERYCONFIG: there is no file .*none\.py"):
        read_overrides(Settings(celeryconfig="none.py"))


@pytest.mark.parametrize("words", [("worker",), ("beat",), ("flower",), ("report",)])
def test_every_command_refuses_at_start_without_a_traceback(words: tuple[str, ...]) -> None:
    ran = celery(*words, STATESYNC_CELERYCONFIG="none.py")
    assert ran.returncode == 1
    assert ran.stderr.startswith("statesync: STATESYNC_CELERYCONFIG: there is no file ")
    assert len(ran.stderr.splitlines()) == 1


def test_ours_may_begin_with_a_mark_of_its_encoding(folder: Path) -> None:
    (folder / "celeryconfig.py").write_bytes(b"\xef\xbb\xbf" + OURS.encode())
    assert read_overrides(Settings()) == {"worker_concurrency": 3}


def test_a_pipe_of_that_name_is_foreign(folder: Path) -> None:
    os.mkfifo(folder / "celeryconfig.py")
    assert read_overrides(Settings()) == {}


def test_a_file_that_ends_the_process_is_refused(folder: Path) -> None:
    (folder / "celeryconfig.py").write_text(f"{OURS}raise SystemExit(0)\n")
    with pytest.raises(SettingsError, match="line 3: SystemExit"):
        read_overrides(Settings())
