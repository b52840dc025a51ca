"""What the overview calls wrong, and how its charts are drawn."""

from __future__ import annotations

import time

from statesync.hot.commands.troubles import Server
from statesync.observe.check import Topic, checked
from statesync.web.chart import HEIGHT, WIDTH, draw
from statesync.web.overview import problems_of, watched_seconds
from statesync.web.rendering import code, duration, utc
from statesync.web.watch import Answer, Checked, Point, Sample


def up(value: object) -> Answer[object]:
    return Answer(value, "", time.time())


def away(why: str) -> Answer[object]:
    return Answer(None, why, time.time())


def sample(**answers: Answer[object]) -> Sample:
    return Sample("", **answers)  # type: ignore[arg-type]


def test_what_fails_comes_before_what_is_a_warning() -> None:
    found = Checked(
        [
            checked(Topic.MEMORY, "80 % full", warn="give it more"),
            checked(Topic.BEAT, "no sweep", fail="start beat"),
            checked(Topic.CLOCKS, "they agree"),
        ],
        {},
    )
    problems = problems_of(sample(checks=up(found)))
    assert [(one.name, one.do, one.anchor) for one in problems] == [
        ("beat", "start beat", "beat"),
        ("memory", "give it more", "memory"),
    ]


def test_a_server_that_is_away_is_told_once_and_before_its_check() -> None:
    found = Checked(
        [
            checked(Topic.REDIS, "an old error", fail="start it"),
            checked(Topic.CLOCKS, "an old error", fail="start it", away=Server.REDIS),
            checked(Topic.BEAT, "an old error", fail="start it", away=Server.REDIS),
        ],
        {},
    )
    problems = problems_of(sample(redis=away("refused"), checks=up(found)))
    assert [one.found for one in problems] == [
        "Redis does not answer: refused. Not known until it does: clocks, beat."
    ]
    late = Answer(object(), "", time.time() - 100)
    (silent,) = problems_of(sample(postgresql=late))
    assert "silent" in silent.found
    again = problems_of(sample(redis=up(object()), checks=up(found)))
    assert [one.name for one in again] == ["redis", "clocks", "beat"]


def test_what_has_a_page_leads_there() -> None:
    found = Checked([checked(Topic.QUARANTINE, "3 cannot be saved", warn="see which")], {})
    (problem,) = problems_of(sample(checks=up(found)))
    assert problem.page == "/quarantine"


def test_what_was_not_asked_yet_is_not_wrong() -> None:
    assert problems_of(sample()) == []


NOW = 1_800_000_000.0


def test_a_chart_has_the_limit_in_it() -> None:
    chart = draw([(NOW - 10, 3.0), (NOW - 5, 4.0)], now=NOW, limit=60)
    assert (chart.top, chart.mark_y, chart.highest) == (100, HEIGHT * 0.4, 4.0)
    assert draw([], now=NOW).line == ""


def test_a_chart_shows_the_highest_of_a_column_and_leaves_gaps() -> None:
    minutes = [(NOW - 3600 + 60 * i, 1.0) for i in range(61) if not 20 < i < 40]
    quick = [(NOW - 3600 + i, 9.0 if i == 5 else 1.0) for i in range(15)]
    assert draw(quick, now=NOW).highest == 9.0
    spaced = [(NOW - 3600 + 5 * i, 1.0) for i in range(721) if not 200 < i < 400]
    chart = draw(spaced, now=NOW)
    assert chart.line.count("M") == 2
    assert chart.line.count("L") < 240
    assert f"L{WIDTH} " in chart.line
    assert draw(minutes, now=NOW).line.count("M") > 2


def test_charts_that_have_not_seen_the_whole_hour_say_so() -> None:
    assert watched_seconds([], now=NOW) == 0
    assert watched_seconds([Point(NOW - 60, 1, 0.0), Point(NOW, 1, 0.0)], now=NOW) == 60
    assert watched_seconds([Point(NOW - 3595, 1, 0.0), Point(NOW, 1, 0.0)], now=NOW) is None


def test_a_chart_of_a_million_ends_in_its_box() -> None:
    chart = draw([(NOW - 1, 1_234_567.0)], now=NOW)
    assert chart.top == 2_000_000
    assert draw([(NOW - 1, 0.0)], now=NOW).top == 1


def test_words_between_backticks_are_code_and_nothing_is_html() -> None:
    assert code("run `a <b>`\x1b & `") == "run <code>a &lt;b&gt;</code>\\x1b &amp; `"


def test_times_as_people_say_them() -> None:
    assert [duration(s) for s in (None, 0.04, 9.96, 59, 180, 7300, 200_000)] == [
        "-",
        "0.0 s",
        "10.0 s",
        "59 s",
        "3 min",
        "2 h",
        "2 d",
    ]
    assert utc(0) == "-"
    assert utc(1) == "1970-01-01 00:00:01 UTC"
