"""What a worker does before it forks."""

from __future__ import annotations

import gc

from celery.signals import worker_before_create_process

import statesync.worker.app  # noqa: F401 - what it does before it forks


def test_fork_finds_what_is_loaded_out_of_the_collectors_way() -> None:
    try:
        worker_before_create_process.send(sender=None)
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
