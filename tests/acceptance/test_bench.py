"""Every benchmark runs; what it finds is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from statesync.cli.bench import NAMES


@pytest.mark.slow
def test_all_of_them_run_and_tell_in_json() -> None:
    program = "from statesync.cli import main; main()"
    command = [sys.executable, "-c", program, "bench", "--json"]
    command += ["--size", "200", "--rounds", "1"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert len(found["results"]) >= len(NAMES)
    for result in found["results"]:
        assert len(result["contestants"]) > 1
        assert all(one["median"] > 0 for one in result["contestants"].values())
