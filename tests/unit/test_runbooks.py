"""Every check, alert and page that names a runbook names one that there is."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from statesync.observe.check import Topic, checked

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


def test_each_alert_has_a_runbook() -> None:
    rules = yaml.safe_load(RULES.read_text()) if RULES.exists() else {"groups": []}
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                page, _, name = rule["annotations"]["runbook"].rpartition("#")
                assert page.endswith("docs/runbooks.md"), rule["alert"]
                assert name in ANCHORS, rule["alert"]
