"""What may stand under `[tool.slotsched]`."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from slotsched.catalog.facts import NAMES, read_facts
from slotsched.model import Facts, Job, Rate, RetryPolicy, job_from_document, job_to_document


def facts_of(text: str) -> Facts:
    facts, problems = read_facts(tomllib.loads(text))
    assert problems == []
    return facts


def complaint(text: str) -> str:
    _, problems = read_facts(tomllib.loads(text))
    assert len(problems) == 1
    return problems[0][1]


def test_without_facts_the_documented_defaults_hold() -> None:
    facts = facts_of("")
    assert (facts.slots, facts.max_time, facts.grace, facts.priority) == (1, 3600.0, 10.0, 0)
    assert facts.retry == RetryPolicy(limit=0, delay=10.0, exponential=True)
    assert facts.enabled
    assert facts.needs.slots == 1


def test_every_fact_is_read() -> None:
    facts = facts_of(
        """
        slots = 8
        max_time = "1h30m"
        grace = 0
        priority = -2
        retries = 3
        retry_delay = "1m"
        retry_on = ["exit", "lost"]
        retry_backoff = "fixed"
        retry_cap = "10m"
        unique = "pending"
        memory = "2G"
        resources = { gpu = 1 }
        requires = ["ssd", "ssd"]
        env = { A = "x", N = 3, B = true }
        user = "nobody"
        workdir = "/srv"
        python = "~/venv/bin/python"
        keep = "30d"
        enabled = false
        description = "text"
        tags = ["nightly"]
        user_namespace = false
        """
    )
    assert (facts.slots, facts.max_time, facts.grace, facts.priority) == (8, 5400.0, 0.0, -2)
    assert facts.retry == RetryPolicy(limit=3, delay=60.0, exponential=False, cap=600.0, on=("exit", "lost"))
    assert facts.unique == "pending"
    assert facts.memory == 2 << 30
    assert (facts.resources, facts.requires) == ({"gpu": 1}, ("ssd",))
    assert facts.env == {"A": "x", "N": "3", "B": "true"}
    assert (facts.user, facts.workdir, facts.python) == ("nobody", "/srv", "~/venv/bin/python")
    assert (facts.keep, facts.enabled, facts.tags, facts.user_namespace) == (30 * 86400.0, False, ("nightly",), False)


def test_limits_and_an_exclusive_need() -> None:
    facts = facts_of('concurrency = 3\nconcurrency_key = "customer"\nrate = "10/m"\nexclusive = true')
    assert (facts.concurrency, facts.concurrency_key, facts.needs.exclusive) == (3, "customer", True)
    assert facts.rate == Rate(starts=10, seconds=60.0)
    assert [str(facts_of(f'rate = "{text}"').rate) for text in ("5/s", "3/1h", "1/90s", "7 / d")] == [
        "5/s",
        "3/h",
        "1/90s",
        "7/d",
    ]
    job = Job(name="a", hash="0", facts=facts)
    assert job_from_document(job_to_document(job)) == job


def test_schedule_facts_are_kept_for_the_version_that_acts_on_them() -> None:
    facts = facts_of('cron = "15 3 * * *"\ntimezone = "Europe/Paris"\noverlap = "buffer_one"\ncatch_up = "all"')
    assert facts.schedule == {
        "cron": "15 3 * * *",
        "timezone": "Europe/Paris",
        "overlap": "buffer_one",
        "catch_up": "all",
    }
    assert facts_of("at = 2026-12-01T06:00:00Z").schedule == {"at": "2026-12-01T06:00:00+00:00"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slot = 4", 'unknown key "slot", did you mean "slots"?'),
        ("frobnicate = 4", 'unknown key "frobnicate"'),
        ("slots = 0", "slots: 0 is not a whole number from 1 to 2147483647"),
        ('slots = "4"', 'slots: "4" is not a whole number from 1 to 2147483647'),
        ("slots = true", "slots: true is not a whole number from 1 to 2147483647"),
        ("slots = nan", "slots: NaN is not a whole number from 1 to 2147483647"),
        ("priority = nan", "priority: NaN is not a number from -1000000 to 1000000"),
        ("max_time = 0", "max_time: must be more than 0"),
        ('max_time = "-5m"', "max_time: '-5m' is not a duration such as 90, 10m or 1h30m"),
        ("max_time = inf", "max_time: inf is not a duration such as 90, 10m or 1h30m"),
        ('max_time = "9999d"', 'max_time: "9999d" is more than 366 days'),
        ("max_time = [1]", "max_time: [1] is not a duration such as 90, 10m or 1h30m"),
        ('retry_backoff = "linear"', 'retry_backoff: "linear" is not one of fixed, exponential'),
        ('unique = "always"', 'unique: "always" is not one of pending, running'),
        ('retry_on = ["exits"]', 'retry_on: "exits" is not one of exit, signal, timeout, memory, lost, shutdown'),
        ("memory = [1]", "memory: [1] is not a size such as 512M or 2G"),
        ('resources = { "a-b" = 1, a_b = 1 }', "resources: two of a-b, a_b have the same variable for their units"),
        ('rate = "0/m"', "rate: 0 is not a whole number from 1 to 10000"),
        ('rate = "10/x"', "rate: '1x' is not a duration such as 90, 10m or 1h30m"),
        ("rate = 10", "rate: 10 is not starts per time, such as 10/m, 100/h or 1/90s"),
        ('memory = "1G"\nmemory_retry_factor = 1', "memory_retry_factor: 1 is not a number of more than 1, up to 100"),
        ('resources = { "a|b" = 1 }', 'resources: "a|b" is not a name (letters, digits, _ and -)'),
        ('requires = ["a,b"]', 'requires: "a,b" is not a tag (letters, digits and _ . : -)'),
        ('env = { "A=B" = "x" }', 'env: "A=B" is not a variable\'s name'),
        ('env = { SLOTSCHED_TASK_ID = "x" }', "env: SLOTSCHED_TASK_ID is set by slotsched"),
        ('env = { A = "\\u0000" }', 'env: A = "\\u0000" is not a text'),
        ('workdir = "sub"', 'workdir: "sub" is not an absolute path'),
        ("command = []", "command: is empty"),
        ('command = "ls -l"', 'command: "ls -l" is not a list of texts'),
        ("enabled = 1", "enabled: 1 is not true or false"),
        ('timezone = "Mars/Olympus"', 'timezone: time zone "Mars/Olympus" is not known'),
        ('timezone = "../../etc/passwd"', 'timezone: time zone "../../etc/passwd" is not known'),
        ('cron = "* * *"', "cron: 3 fields, but a cron has five, or six with seconds last"),
        ('cron = ["0 0 * * *", "61 * * * *"]', 'cron: minute 61 is not in 0-59: "[61] * * * *"'),
        ('every = "0.01s"', 'every: "0.01s" is not between 0.1 s and 30 years'),
        ("every = [1]", "every: [1] is not a duration such as 90, 10m or 1h30m"),
        ('at = "soon"', "at: 'soon' is not a moment such as"),
        ('notify = "ftp://x"', "notify: 'ftp://x' is no address that begins with https:// or http://"),
        ("notify = { on = ['failure'] }", "notify: either command or url must say whom to tell"),
        ("notify = { url = 'http://x', on = ['end'] }", "notify: on: 'end' is none of failure, success, canceled"),
        ('overlap = "skp"', 'overlap: "skp" is not one of skip, buffer_one, buffer_all, cancel_other, allow_all'),
        ('when = "any"', "when: only together with after"),
    ],
)
def test_a_bad_fact_is_refused_in_words(text: str, message: str) -> None:
    assert complaint(text).startswith(message)


def test_all_problems_are_found_at_once() -> None:
    _, problems = read_facts({"slots": 0, "slot": 1, "grace": "x"})
    assert [path for path, _ in problems] == [("slots",), ("slot",), ("grace",)]


def test_a_job_has_one_trigger() -> None:
    assert complaint('cron = "@daily"\nevery = "1h"').startswith("every: only one of")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [None, object(), [[]], {"a": {}}, 1e300, float("nan"), "\0", "", -1, True, [None]])
def test_no_value_of_any_type_makes_a_fact_raise(name: str, value: Any) -> None:
    read_facts({name: value})
