"""Alarms ring in time, whatever became of others, and in a fork as well."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import time

import pytest

from statesync.durable import alarms
from statesync.durable.alarms import Alarm

FORK = """
import os, sys, threading
from statesync.durable.alarms import Alarm

Alarm(print).start(3600)  # the thread of the parent runs
child = os.fork()
rang = threading.Event()
Alarm(rang.set).start(0.01)
heard = rang.wait(30)
if child:
    heard = os.waitpid(child, 0)[1] == 0 and heard
os._exit(not heard)
"""


def test_earlier_alarm_does_not_wait_for_a_later_one() -> None:
    late, early = Alarm(lambda: None), threading.Event()
    late.start(3600)
    given_up = time.monotonic() + 30
    while alarms._alarms._wakes_at == math.inf:  # until the thread sleeps
        assert time.monotonic() < given_up
        time.sleep(0.001)
    Alarm(early.set).start(0.01)
    assert early.wait(30)
    late.stop()
    assert not late.rang


def test_alarm_that_fails_silences_no_other(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        rang = threading.Event()
        failing = Alarm({}.popitem)
        failing.start(0)
        Alarm(rang.set).start(0.01)
        assert rang.wait(30)
        assert failing.rang
    assert "an alarm failed" in caplog.text


def test_parent_and_child_of_a_fork_both_hear_theirs() -> None:
    ran = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
