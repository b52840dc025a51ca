"""Every check, alert and page that names a runbook names one that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from statesync.hot.commands.troubles import Server
from statesync.observe.check import Group, Topic, checked
from tests.unit.deploy.named import check_command

ROOT = Path(__file__).parents[2]
RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text()
TEMPLATES = ROOT / "statesync" / "web" / "templates"
RULES = ROOT / "deploy" / "prometheus" / "statesync.rules.yml"


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as forges and our page make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


HEADINGS = re.findall(r"^## (.*)$", RUNBOOKS, re.MULTILINE)
ANCHORS = {anchor(heading) for heading in HEADINGS}


def test_each_check_has_a_runbook() -> None:
    for topic in Topic:
        page, _, name = checked(topic, "").runbook.partition("#")
        assert page == "docs/runbooks.md"
        assert name in ANCHORS


def test_headings_are_one_of_a_kind() -> None:
    assert len(ANCHORS) == len(HEADINGS)


def test_each_runbook_of_a_check_says_what_it_means() -> None:
    for section in re.split(r"^## ", RUNBOOKS, flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        if anchor(heading) in {topic.replace(" ", "-") for topic in Topic}:
            assert text.strip().startswith("**Means:**"), heading


def test_each_link_within_leads_somewhere() -> None:
    assert {*re.findall(r"\]\(#([^)]*)\)", RUNBOOKS)} <= ANCHORS


def test_each_link_to_another_page_leads_somewhere() -> None:
    for page, name in re.findall(r"\]\(([\w-]+\.md)#([^)]*)\)", RUNBOOKS):
        headings = re.findall(r"^#+ (.*)$", (ROOT / "docs" / page).read_text(), re.MULTILINE)
        assert name in {anchor(heading) for heading in headings}, f"{page}#{name}"


def test_each_link_of_the_operators_page_leads_somewhere() -> None:
    for template in TEMPLATES.glob("*.html"):
        named = re.findall(r"link\('/runbooks'\) \}\}#([\w-]+)", template.read_text())
        assert {*named} <= ANCHORS, template.name


def alerts() -> dict[str, str]:
    """Return the anchor of each alert; a label in it is a server or a group of checks."""
    rules = [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]
    return {rule["alert"]: rule["annotations"]["runbook"] for rule in rules if "alert" in rule}


LABELS = {"server": [*Server], "check": [*Group]}


@pytest.mark.parametrize(("alert", "runbook"), alerts().items())
def test_each_alert_has_a_runbook(alert: str, runbook: str) -> None:
    page, _, name = runbook.partition("#")
    assert page == "docs/runbooks.md"
    if label := re.fullmatch(r"\{\{ \$labels\.(\w+) \}\}", name):
        assert {*LABELS[label[1]]} <= ANCHORS
    else:
        assert name in ANCHORS


def test_the_page_lists_each_alert_with_its_runbook() -> None:
    listed = dict[str, str]()
    for names, links in re.findall(r"^\| (`Statesync.*?) \| (.*?) \|$", RUNBOOKS, re.MULTILINE):
        listed |= dict.fromkeys(re.findall(r"`(\w+)`", names), links)
    assert listed.keys() == alerts().keys()
    for alert, runbook in alerts().items():
        name = runbook.partition("#")[2]
        assert "$labels" in name or f"(#{name})" in listed[alert]


@pytest.mark.parametrize(
    "command", sorted({*re.findall(r"`((?:statesync|celery) [^`]+)`", RUNBOOKS)})
)
def test_each_command_exists(command: str) -> None:
    check_command(command.replace("-Q QUEUE", "-Q restore").split())
