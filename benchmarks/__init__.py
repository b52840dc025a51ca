"""Owns the benchmarks: statesync beside a naive twin and the floor, in one run.

The *naive* twin is what one writes first: a Celery task for each character, an ORM merge, the mark
removed afterwards. The *floor* is a loop with the drivers alone that moves the same bytes and does
nothing else. They take turns on the same servers, round by round, after a warm-up round.
"""

__all__: list[str] = []
