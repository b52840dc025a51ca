"""Owns what each metric is: its name, what it means, and how it follows from what the watch knows.

A figure that is not known, since its server is away, is left out; ``statesync_up`` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from importlib.metadata import version
from typing import NamedTuple

from statesync.durable.losses import Side
from statesync.hot.commands.health import Figures
from statesync.hot.commands.operators import Status
from statesync.hot.commands.troubles import Server
from statesync.hot.histograms import BATCH, CHANGE_TO_DURABLE, COMMIT, Distribution, Histogram
from statesync.observe.check import CheckStatus, Group
from statesync.observe.losses import is_recent
from statesync.settings import Settings
from statesync.state.outcomes import BackupOutcome, RestoreOutcome
from statesync.web.watch import Sample
from statesync.worker.names import queues_of

__all__ = ["METRICS", "Kind", "Metric", "Value"]


class Kind(StrEnum):
    """The types of metrics that Prometheus knows."""

    GAUGE = "gauge"
    """A number that rises and falls."""
    COUNTER = "counter"
    """A number that only rises, until Redis forgets it."""
    HISTOGRAM = "histogram"
    """How often values fell into each bucket, and their sum."""


Value = tuple[tuple[str, ...], float | Distribution]
"""The values of the metric's own labels, and the number or, of a histogram, the distribution."""


class Metric(NamedTuple):
    """A metric; it has a value for each realm."""

    name: str
    kind: Kind
    help: str
    read: Callable[[Sample, Settings], Iterable[Value]]
    labels: tuple[str, ...] = ()
    """Its own, besides ``realm``."""


def _status(read: Callable[[Status], float]) -> Callable[[Sample, Settings], Iterator[Value]]:
    """Return how to read a number that stands in the Status."""

    def values(sample: Sample, _: Settings) -> Iterator[Value]:
        if sample.redis.is_up and sample.redis.value:
            yield (), read(sample.redis.value)

    return values


def _figure(read: Callable[[Figures], float]) -> Callable[[Sample, Settings], Iterator[Value]]:
    """Return how to read a number that stands in the Figures."""

    def values(sample: Sample, _: Settings) -> Iterator[Value]:
        if sample.figures.is_up and sample.figures.value:
            yield (), read(sample.figures.value)

    return values


def _counter(name: str) -> Callable[[Sample, Settings], Iterator[Value]]:
    return _status(lambda status: status.counters.get(name, 0))


def _counters(names: Iterable[tuple[str, str]]) -> Callable[[Sample, Settings], Iterator[Value]]:
    """Return how to read counters: each has a value of the label, and a name in Redis."""
    pairs = list(names)

    def values(sample: Sample, _: Settings) -> Iterator[Value]:
        if sample.redis.is_up and sample.redis.value:
            counters = sample.redis.value.counters
            yield from (((label,), counters.get(name, 0)) for label, name in pairs)

    return values


def _histogram(histogram: Histogram) -> Callable[[Sample, Settings], Iterator[Value]]:
    def values(sample: Sample, _: Settings) -> Iterator[Value]:
        if sample.figures.is_up and sample.figures.value:
            yield (), histogram.read(sample.figures.value.histograms)

    return values


def _setting(read: Callable[[Settings], float]) -> Callable[[Sample, Settings], Iterator[Value]]:
    return lambda _, settings: iter([((), read(settings))])


def _up(sample: Sample, _: Settings) -> Iterator[Value]:
    yield ("redis",), sample.redis.is_answered
    yield ("postgresql",), sample.postgresql.is_answered
    yield ("broker",), sample.broker.is_answered


def _troubles(sample: Sample, _: Settings) -> Iterator[Value]:
    """Yield what workers have noted. If Redis takes no changes, they cannot: it tells itself."""
    if sample.troubles.is_up and sample.troubles.value is not None:
        refusing = set(sample.troubles.value)
        if sample.figures.value and sample.figures.value.unwritten:
            refusing.add(Server.REDIS)
        yield from (((server,), server in refusing) for server in Server)


def _recent_losses(sample: Sample, _: Settings) -> Iterator[Value]:
    if sample.postgresql.is_up and sample.postgresql.value is not None:
        sides = [loss.side for loss in sample.postgresql.value if is_recent(loss)]
        for side in (Side.REDIS, Side.POSTGRESQL):
            yield (side,), sides.count(side) + sides.count(Side.BOTH)


def _queue_messages(sample: Sample, _: Settings) -> Iterator[Value]:
    if sample.broker.is_up and sample.broker.value is not None:
        yield from (((queue,), count) for queue, count in sample.broker.value.items())


def _queue_workers(sample: Sample, settings: Settings) -> Iterator[Value]:
    if sample.checks.value and sample.checks.value.workers is not None:
        workers = sample.checks.value.workers.values()
        for queue in queues_of(settings):
            yield (queue,), sum(queue in worker.queues for worker in workers)


def _workers(sample: Sample, _: Settings) -> Iterator[Value]:
    if sample.checks.value and sample.checks.value.workers is not None:
        yield (), len(sample.checks.value.workers)


def _checks(status: CheckStatus) -> Callable[[Sample, Settings], Iterator[Value]]:
    def values(sample: Sample, _: Settings) -> Iterator[Value]:
        if sample.checks.value:
            found = {check.group for check in sample.checks.value.checks if check.status is status}
            yield from (((group,), group in found) for group in Group)

    return values


def _age(age_ms: int | None) -> float:
    return math.inf if age_ms is None else age_ms / 1000


_BOTH_SERVERS = [(side.value, f"{side}_went_back") for side in (Side.REDIS, Side.POSTGRESQL)]

METRICS = (
    Metric(
        "statesync_build_info",
        Kind.GAUGE,
        "The version of statesync that serves this page; always 1.",
        lambda _, __: [((version("statesync"),), 1)],
        ("version",),
    ),
    Metric(
        "statesync_up",
        Kind.GAUGE,
        "Whether a server has answered within the last 30 seconds.",
        _up,
        ("server",),
    ),
    Metric(
        "statesync_dirty_characters",
        Kind.GAUGE,
        "Characters with unsaved changes that no worker has claimed since.",
        _status(lambda status: status.dirty),
    ),
    Metric(
        "statesync_claimed_characters",
        Kind.GAUGE,
        "Characters that workers are saving.",
        _status(lambda status: status.claimed),
    ),
    Metric(
        "statesync_expired_claims",
        Kind.GAUGE,
        "Claims whose lease has ended; the next sweep takes them back.",
        _status(lambda status: status.expired),
    ),
    Metric(
        "statesync_quarantined_characters",
        Kind.GAUGE,
        "Characters that cannot be saved until somebody repairs them.",
        _status(lambda status: status.quarantined),
    ),
    Metric(
        "statesync_oldest_unsaved_seconds",
        Kind.GAUGE,
        "Age of the oldest change that waits to be saved, not in quarantine; 0 if there is none.",
        _status(lambda status: max(0, status.oldest_ms or 0) / 1000),
    ),
    Metric(
        "statesync_sync_seconds",
        Kind.GAUGE,
        "The promise: within so long a change is to be saved.",
        _setting(lambda settings: settings.sync_seconds),
    ),
    Metric(
        "statesync_sweep_age_seconds",
        Kind.GAUGE,
        "Since a sweep of the schedule came in; infinite if there was none.",
        _figure(lambda figures: _age(figures.sweep_ms)),
    ),
    Metric(
        "statesync_scrub_age_seconds",
        Kind.GAUGE,
        "Since a scrub came to its end; infinite if there was none.",
        _figure(lambda figures: _age(figures.scrub_ms)),
    ),
    Metric(
        "statesync_scrub_seconds",
        Kind.GAUGE,
        "How often there is to be a scrub; 0 is never.",
        _setting(lambda settings: settings.scrub_seconds),
    ),
    Metric(
        "statesync_recovering",
        Kind.GAUGE,
        "Whether PostgreSQL went back in time, and what is live is being saved again.",
        _status(lambda status: status.recovering),
    ),
    Metric(
        "statesync_comparing",
        Kind.GAUGE,
        "Whether everything live is being compared with its rows.",
        _status(lambda status: status.comparing),
    ),
    Metric(
        "statesync_queue_messages",
        Kind.GAUGE,
        "Messages that wait in a queue.",
        _queue_messages,
        ("queue",),
    ),
    Metric(
        "statesync_queue_workers",
        Kind.GAUGE,
        "Workers that serve a queue.",
        _queue_workers,
        ("queue",),
    ),
    Metric(
        "statesync_workers",
        Kind.GAUGE,
        "Workers that have answered, of the whole fleet.",
        _workers,
    ),
    Metric(
        "statesync_redis_memory_bytes",
        Kind.GAUGE,
        "Memory that Redis uses.",
        _figure(lambda figures: figures.used_bytes),
    ),
    Metric(
        "statesync_redis_memory_limit_bytes",
        Kind.GAUGE,
        "Memory that Redis may use: its maxmemory, or that of its machine.",
        _figure(lambda figures: figures.limit_bytes),
    ),
    Metric(
        "statesync_check_failed",
        Kind.GAUGE,
        "Whether a check of this group of the doctor failed.",
        _checks(CheckStatus.FAIL),
        ("check",),
    ),
    Metric(
        "statesync_check_warned",
        Kind.GAUGE,
        "Whether a check of this group of the doctor warned.",
        _checks(CheckStatus.WARN),
        ("check",),
    ),
    Metric(
        "statesync_trouble",
        Kind.GAUGE,
        "Whether this server refuses work now, as workers report, or Redis if its disk fails.",
        _troubles,
        ("server",),
    ),
    Metric(
        "statesync_losses_recent",
        Kind.GAUGE,
        "How often a server went back in time within seven days, of the last ten losses.",
        _recent_losses,
        ("server",),
    ),
    Metric(
        "statesync_backups_total",
        Kind.COUNTER,
        "Backups of characters, by what became of them.",
        _counters((outcome.value, outcome.value) for outcome in BackupOutcome),
        ("outcome",),
    ),
    Metric(
        "statesync_restores_total",
        Kind.COUNTER,
        "Restores of characters, by what became of them.",
        _counters((outcome.value, outcome.value) for outcome in RestoreOutcome),
        ("outcome",),
    ),
    Metric(
        "statesync_conflicts_total",
        Kind.COUNTER,
        "Characters that were set to their rows because Redis had gone back in time.",
        _counter("reverted"),
    ),
    Metric(
        "statesync_servers_went_back_total",
        Kind.COUNTER,
        "How often a server was found to have gone back in time.",
        _counters(_BOTH_SERVERS),
        ("server",),
    ),
    Metric(
        "statesync_sweeps_total",
        Kind.COUNTER,
        "Sweeps that were counted: one in each interval, and each sweep of everything.",
        _counter("sweeps"),
    ),
    Metric(
        "statesync_change_to_durable_seconds",
        Kind.HISTOGRAM,
        "From the first unsaved change of a character to its acknowledged save.",
        _histogram(CHANGE_TO_DURABLE),
    ),
    Metric(
        "statesync_batch_characters",
        Kind.HISTOGRAM,
        "Characters in a transaction of a save.",
        _histogram(BATCH),
    ),
    Metric(
        "statesync_commit_seconds",
        Kind.HISTOGRAM,
        "How long a transaction of a save takes.",
        _histogram(COMMIT),
    ),
)
