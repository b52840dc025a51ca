"""A line of the log is one event, and nothing in it does anything to whoever reads it."""

from __future__ import annotations

import ast
import json
import logging
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from celery.utils.log import ColorFormatter

import statesync
from statesync import logs

HOSTILE = (
    "x\x1b[2J\r\n[2026-01-01 00:00:00,000: ERROR/MainProcess] forged\x9b31m\u202eback\u2028\x7f\0"
)
SHOWN = (
    r"x\x1b[2J\r",
    r"[2026-01-01 00:00:00,000: ERROR/MainProcess] forged\x9b31m\u202eback\u2028\x7f\x00",
)


def record(message: str, *args: object, error: BaseException | None = None, **extra: Any) -> Any:
    info = (type(error), error, error.__traceback__) if error else None
    logger = logging.getLogger("statesync.x")
    return logger.makeRecord("statesync.x", 30, "f", 1, message, args, info, extra=extra)


def line(log_format: str, one: logging.LogRecord, **more: Any) -> str:
    return logs.formatter(log_format, **more).format(one)


def raised() -> ValueError:
    with pytest.raises(ValueError, match="forged") as caught:
        raise ValueError(HOSTILE)
    return caught.value


def test_text_has_only_one_line_that_looks_like_an_event() -> None:
    first, *more = line("text", record("seen %s", HOSTILE, error=raised())).split("\n")
    assert first.startswith("[2")
    assert first.endswith(f"WARNING/MainProcess] seen {SHOWN[0]}")
    assert more[0] == f"  {SHOWN[1]}"
    assert more[1] == "  Traceback (most recent call last):"
    assert more[-1] == f"  {SHOWN[1]}"
    assert all(part.startswith("  ") and part.isprintable() for part in more)


def test_text_keeps_the_form_and_the_colours_of_celery() -> None:
    inner = ColorFormatter("%(levelname)s %(message)s", use_color=True)
    assert line("text", record("\x1b[2J"), text=inner) == "\x1b[1;33mWARNING \\x1b[2J\x1b[0m"


def test_json_is_one_object_on_one_line() -> None:
    shown = line("json", record("seen %s", HOSTILE, error=raised(), char_id=7))
    assert "\n" not in shown
    assert shown.isprintable()
    read = json.loads(shown)
    assert datetime.fromisoformat(read.pop("time")).tzinfo == UTC
    trace = read.pop("traceback").split("\n")
    assert read == {
        "level": "warning",
        "logger": "statesync.x",
        "process": "MainProcess",
        "message": "\n".join([f"seen {SHOWN[0]}", SHOWN[1]]),
        "char_id": 7,
    }
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-1] == SHOWN[1]
    assert all(part.isprintable() for part in trace)


def test_json_has_the_fields_that_are_known_and_escapes_what_is_in_them() -> None:
    nested = {HOSTILE: [HOSTILE, {"x": "\ud800"}], "n": 1}
    given = record("x", error_of="ours", counts=nested, session=HOSTILE, unknown=1)
    read = json.loads(line("json", given, context=lambda _: {"task_id": HOSTILE}))
    whole = r"\n".join(SHOWN)
    assert read["counts"] == {whole: [whole, {"x": r"\ud800"}], "n": 1}
    assert read["session"] == read["task_id"] == whole
    assert {"unknown", "error_of"}.isdisjoint(read)


def test_json_writes_what_is_no_json(capsys: pytest.CaptureFixture[str]) -> None:
    given = record("x", error=None, counts={"path": Path("/x"), "float": float("nan")})
    read = json.loads(line("json", given))
    assert read["counts"] == {"path": "/x", "float": None}


def test_configured_process_writes_to_stderr_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    before = root.level
    try:
        logs.configure("json", logging.WARNING)
        logging.getLogger("x.y").info("nothing")
        logging.getLogger("x.y").warning("something")
    finally:
        root.setLevel(before)
        logging.captureWarnings(False)
    out, err = capsys.readouterr()
    assert (out, json.loads(err)["message"]) == ("", "something")
    assert len(root.handlers) == 1
    assert sys.stderr is not None


def _extras() -> set[str]:
    """The names of all fields that our modules give to a line: string keys of ``extra``."""
    package = Path(statesync.__file__).parent
    found: set[str] = set()
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text())
        dicts = {
            target.id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
            for target in node.targets
            if isinstance(target, ast.Name) and target.id == "of_line"
        }
        given = [k.value for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords
                 if k.arg == "extra"]  # fmt: skip
        for one in [*dicts.values(), *(g for g in given if isinstance(g, ast.Dict))]:
            found |= {key.value for key in one.keys if isinstance(key, ast.Constant)}  # type: ignore[misc]
    return found


def test_what_our_lines_carry_is_known() -> None:
    assert _extras() >= {"char_id", "char_ids", "outcome", "error", "server", "session"}
    assert _extras() <= set(logs.FIELDS)


def test_docs_list_every_field() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    section = page.partition("\n## Logs\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| (.*?) \|", section, re.M))))
    always = {"time", "level", "logger", "process", "message", "traceback"}
    assert listed == always | set(logs.FIELDS)


class Unspeakable:
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


def test_what_has_no_text_is_a_line_too() -> None:
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    for value in (Unspeakable(), cyclic):
        assert "no fields" in json.loads(line("json", record("seen", counts=value)))["error"]
    written = json.loads(line("json", record("seen", counts=ValueError("\ud800"))))
    assert written["counts"] == r"\ud800"
    for log_format in ("text", "json"):
        assert "seen %s (no arguments: RuntimeError)" in line(
            log_format, record("seen %s", Unspeakable())
        )
        assert "(no arguments: TypeError)" in line(log_format, record("seen", 1))
