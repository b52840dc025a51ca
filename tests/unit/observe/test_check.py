"""The names of checks: alerts, metrics, runbooks and scripts rely on them."""

from __future__ import annotations

import pytest

from statesync.observe import check, checks
from statesync.observe.check import Check, CheckStatus, Group, Topic, checked


def test_each_topic_is_in_one_group_and_each_group_is_a_topic() -> None:
    grouped = [topic for topics in check._TOPICS.values() for topic in topics]
    assert sorted(grouped) == sorted(Topic)
    for group in Group:
        assert checked(Topic(group), "").group == group, "what fails as a whole fails as itself"
    assert {*checks._ASKS, Group.WORKERS, Group.BEAT} == {*Group}


@pytest.mark.parametrize(
    ("topic", "subject", "name", "anchor"),
    [
        (Topic.QUEUE, "eu.sync", "queue eu.sync", "queue"),
        (Topic.RIGHTS_IN_REDIS, "", "rights in redis", "rights-in-redis"),
    ],
)
def test_names(topic: Topic, subject: str, name: str, anchor: str) -> None:
    one = checked(topic, "found", subject=subject)
    assert (one.name, one.runbook) == (name, f"docs/runbooks.md#{anchor}")


def test_json() -> None:
    assert checked(Topic.SCRUB, "late", warn="look").as_json() == {
        "group": "beat",
        "check": "scrub",
        "status": "warn",
        "found": "late",
        "do": "look",
        "runbook": "docs/runbooks.md#scrub",
    }
    assert checked(Topic.SCRUB, "late", warn="look", fail="run") == Check(
        Topic.SCRUB, CheckStatus.FAIL, "late", "run"
    )
