"""What a file of deploy/ may name: our settings, commands, options, queues."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import yaml
from celery.bin.beat import beat
from celery.bin.worker import worker
from flower.options import options as flower_options

from statesync.cli import _cli
from statesync.settings import PREFIX, Settings
from statesync.worker.names import QueueName

__all__ = ["ALIVE_PROBE", "ROOT", "check_command", "check_environment", "documents"]

ROOT = Path(__file__).parents[3]
ALIVE_PROBE = "find {} -mmin -2 | grep -q ."
"""Finds a file that was touched in the last two minutes."""


def documents(path: Path) -> list[Any]:
    """Return the documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text()))


def check_environment(names: Iterable[str]) -> None:
    """Check that each variable is a setting of ours or of Flower."""
    ours = {PREFIX + spec.name.upper() for spec in fields(Settings)}
    flowers = {f"FLOWER_{name.upper()}" for name in flower_options._options}
    flowers = {name.replace("-", "_") for name in flowers}
    assert not {*names} - ours - flowers


def check_command(words: Sequence[str]) -> None:
    """Check that a command of ours or of Celery exists, with its options and queues."""
    program, *rest = words
    program = Path(program).name
    if program == "statesync":
        command = _cli.get_command(click.Context(_cli), rest[0])
        assert command, rest[0]
        if isinstance(command, click.Group):
            command, rest = command.commands[rest[1]], rest[1:]
        _check_options(command, rest[1:])
        return
    assert [program, *rest[:2]] == ["celery", "-A", "statesync"]
    name, *rest = rest[2:]
    if name == "flower":
        assert {word.strip("-").partition("=")[0] for word in rest} <= {*flower_options._options}
    else:
        _check_options({"worker": worker, "beat": beat}[name], rest)


def _check_options(command: click.Command, words: Sequence[str]) -> None:
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known
    for option, value in pairwise(words):
        if option == "-Q":
            assert re.sub(r"\$\{.*\}", "", value) in {*QueueName}
