"""Owns what the doctor says of Flower."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Iterator

from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.observe.check import Check, Topic, checked
from statesync.settings import Settings

__all__ = ["check_flower"]

_FLOWER_SECONDS = 3


def check_flower(_: GameStateOrchestrator, __: Settings) -> Iterator[Check]:
    """Check that a Flower on this machine asks for a password."""
    if os.environ.get("FLOWER_UNAUTHENTICATED_API", "").lower() in ("1", "true", "yes", "on"):
        advice = "unset FLOWER_UNAUTHENTICATED_API: whoever reaches Flower can stop workers"
        yield checked(Topic.FLOWER, "its API asks for no password", fail=advice)
        return
    host = os.environ.get("FLOWER_ADDRESS", "").replace("0.0.0.0", "") or "127.0.0.1"  # noqa: S104
    address = f"{host}:{os.environ.get('FLOWER_PORT') or 5555}"
    try:
        with urllib.request.urlopen(f"http://{address}/workers", timeout=_FLOWER_SECONDS) as answer:
            is_flower = "Tornado" in answer.headers.get("Server", "")
    except urllib.error.HTTPError as error:
        yield checked(Topic.FLOWER, f"at {address} it asks for a password ({error.code})")
    except (OSError, ValueError):
        yield checked(Topic.FLOWER, f"none at {address}")
    else:
        advice = "set FLOWER_BASIC_AUTH=user:password: whoever reaches it can stop workers"
        yield checked(
            Topic.FLOWER,
            f"at {address} it asks for no password" if is_flower else f"none at {address}",
            fail=advice if is_flower else "",
        )
