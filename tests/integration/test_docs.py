"""The Python code in the docs is true: every page runs as printed, and its assertions hold.

All pages run on one stack, in any order, as a newcomer runs them: their samples do not collide.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

from statesync.embedded.stack import stack
from statesync.settings import PREFIX

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def samples(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def test_every_page_runs_as_printed(tmp_path: Path) -> None:
    pages = {page.name: "\n".join(samples(page)) for page in PAGES if samples(page)}
    assert {"README.md", "game-code.md", "sessions.md", "trades.md"} <= pages.keys()
    order = random.sample(sorted(pages), len(pages))
    outer = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    with stack() as running:
        running.start_worker()
        env = outer | running.settings.to_env()
        failures = []
        for name in order:
            script = tmp_path / f"{name}.py"
            script.write_text(pages[name])
            command = [sys.executable, str(script)]
            ran = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
            if ran.returncode:
                failures.append(f"{name}: {ran.stderr}")
    assert not failures, "\n".join(["in the order", *order, *failures])
