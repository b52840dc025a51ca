"""Importing statesync defines names and does nothing else: any process of a game may do it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import statesync

PACKAGE = Path(statesync.__file__).parent

RECORD = f"""
import json, os, sys, threading

effects, uses = [], []
EFFECTS = ("socket.__new__", "os.putenv", "os.unsetenv")
sys.addaudithook(lambda event, _: effects.append(event) if event in EFFECTS else None)


class Recording(type(os.environ)):
    def record(self):
        caller = sys._getframe(2)
        while caller.f_code.co_filename.startswith("<frozen"):
            caller = caller.f_back
        if caller.f_code.co_filename.startswith({str(PACKAGE)!r}):
            uses.append(f"{{caller.f_code.co_filename}}:{{caller.f_lineno}}")

    def __getitem__(self, name):
        self.record()
        return super().__getitem__(name)

    def __setitem__(self, name, value):
        self.record()
        super().__setitem__(name, value)

    def __delitem__(self, name):
        self.record()
        super().__delitem__(name)

    def __iter__(self):
        self.record()
        return super().__iter__()


os.environ.__class__ = Recording

start = threading.Thread.start
threading.Thread.start = lambda thread: (effects.append("thread"), start(thread))
"""
"""Writes down threads, sockets and changes of the environment, and our own uses of the latter."""

REPORT = "\nprint(json.dumps({'effects': effects, 'uses': uses}))"


def run(code: str) -> Any:
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


def recorded(code: str) -> Any:
    return run(RECORD + code + REPORT)


def test_it_starts_no_thread_opens_no_socket_and_leaves_the_environment_alone() -> None:
    assert recorded("import statesync") == {"effects": [], "uses": []}


def test_the_recorder_sees_what_it_is_for() -> None:
    effects = """
import socket
threading.Thread(target=int).start()
socket.socket().close()
os.environ["X"] = "y"
"""
    assert recorded(effects)["effects"] == ["thread", "socket.__new__", "os.putenv"]
    uses = "import statesync; statesync.Settings.from_env()"
    assert any("settings.py" in use for use in recorded(uses)["uses"])


def test_it_leaves_out_what_a_game_does_not_need() -> None:
    heavy = ["celery", "kombu", "psutil", "click", "rich"]
    # redis-py imports OpenTelemetry where that is installed, which imports psutil.
    code = "import json, sys; sys.modules['opentelemetry'] = None; import statesync"
    assert run(f"{code}; print(json.dumps([*sys.modules.keys() & {heavy}]))") == []
