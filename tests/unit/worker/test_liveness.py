"""What shows that a process is not stuck: from its main thread alone, and never in its way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError

from statesync.worker import liveness as module
from statesync.worker.liveness import Liveness, LivenessConnection
from tests.ports import free_port


@pytest.fixture(autouse=True)
def alarms_by_hand(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the timer not ring by itself, and give its handler back."""
    monkeypatch.setattr(module, "_SECONDS", 3600)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "alive"


def began(file: Path) -> Liveness:
    made = Liveness()
    made.begin(str(file))
    return made


def is_touched(file: Path) -> bool:
    """Tell whether the file was touched, and age it for the next question."""
    touched = file.stat().st_mtime > 1
    os.utime(file, (1, 1))
    return touched


def is_shown(file: Path) -> bool:
    """Tell whether an alarm touches the file."""
    os.utime(file, (1, 1))
    signal.raise_signal(signal.SIGALRM)
    return is_touched(file)


def in_a_thread(act: Callable[[], None]) -> None:
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


def in_a_child(act: Callable[[], None]) -> None:
    process = multiprocessing.get_context("fork").Process(target=act)
    process.start()
    process.join()
    assert process.exitcode == 0


def test_the_file_is_there_at_once_and_each_alarm_touches_it(file: Path) -> None:
    began(file)
    assert is_touched(file)
    assert is_shown(file)


def test_the_alarm_comes_by_itself(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.01)
    began(file)
    os.utime(file, (1, 1))
    give_up_at = time.monotonic() + 60
    while not is_touched(file):
        assert time.monotonic() < give_up_at
        signal.pause()


def test_who_waits_for_an_answer_shows_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.01)
    here, there = socket.socketpair()

    def answer_once_it_is_shown() -> None:
        give_up_at = time.monotonic() + 60
        while not is_touched(file) and time.monotonic() < give_up_at:
            time.sleep(0.001)
        there.send(b"answer")

    with here, there:
        began(file)
        here.settimeout(30)
        os.utime(file, (1, 1))
        answering = threading.Thread(target=answer_once_it_is_shown)
        answering.start()
        assert here.recv(100) == b"answer"
        answering.join()


def test_nothing_happens_if_nobody_wants_to_know() -> None:
    before = signal.getsignal(signal.SIGALRM)
    Liveness().begin("")
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_main_thread_that_does_not_come_by_is_stuck(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = began(file)
    monkeypatch.setattr(shown, "_came_by", time.monotonic() - module._STUCK_SECONDS)
    assert not is_shown(file)
    # Neither a helper thread nor a child is it; they may run an embedded beat.
    for act in (shown.come_by, lambda: shown.begin(str(file))):
        in_a_thread(act)
        in_a_child(act)
        assert not is_shown(file)
    shown.come_by()
    assert is_shown(file)


def test_a_child_has_no_alarm(file: Path) -> None:
    shown = began(file)

    def child() -> None:
        shown.begin(str(file))
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)

    in_a_child(child)


def test_a_file_that_cannot_be_touched_is_logged_at_the_start_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    began(folder / "alive")
    signal.raise_signal(signal.SIGALRM)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert str(folder) in caplog.text
    folder.mkdir()
    signal.raise_signal(signal.SIGALRM)
    assert is_touched(folder / "alive")


def test_who_waits_for_the_broker_comes_by(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = began(file)
    monkeypatch.setattr(module, "liveness", shown)
    calls = []

    def waits() -> None:
        calls.append(shown._came_by)
        shown._came_by = 0

    connection = LivenessConnection(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(OperationalError):
        connection.ensure_connection(max_retries=1, interval_start=1, callback=waits)
    assert len(calls) >= 2
    assert all(calls)


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(10)
        yield listening


@pytest.mark.parametrize("address", ["{folder}/notify", "@statesync-test-{pid}"])
def test_systemd_is_told_too(
    systemd: socket.socket, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = address.format(folder=tmp_path, pid=os.getpid())
    systemd.bind(address.replace("@", "\0"))
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    Liveness().begin("")
    signal.raise_signal(signal.SIGALRM)
    assert [systemd.recv(100) for _ in range(2)] == [b"READY=1\nWATCHDOG=1"] * 2


def test_a_systemd_that_is_gone_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    Liveness().begin("")
    signal.raise_signal(signal.SIGALRM)
    assert len(caplog.records) == 1
