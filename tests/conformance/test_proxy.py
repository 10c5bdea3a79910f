"""The proxy keeps the rules of the suite before each scripted upstream, with the settings of the documentation."""

import re
from pathlib import Path

import pytest

from messages_conformance.backends import PROTOCOLS, start_backend
from messages_conformance.expected import read_expected
from messages_conformance.results import describe_failure
from messages_conformance.rows import FROZEN_SETS, SETS
from messages_conformance.runner import Outcome, Runner, load_suite
from messages_conformance.trial import Options
from tests.support.paths import ROOT
from tests.support.server_process import running_proxy

PAGE = (ROOT / "docs/guide/conformance.md").read_text("utf-8")
ROWS = {
    protocol: (dict(re.findall(r"`(\w+)=([^`]+)`", settings)), model)
    for protocol, settings, model in re.findall(r"^\| `(\w+)` \| (.+) \| `(\S+)` \|$", PAGE, re.MULTILINE)
}
"""Protocol → settings and model, of the table on the page."""
EXPECTED = ROOT / "tests/conformance/expected_failures"
KEY = "key-of-one-user"


def test_the_page_has_each_protocol() -> None:
    assert tuple(ROWS) == PROTOCOLS


@pytest.mark.parametrize(
    ("protocol", "sets"),
    [
        pytest.param("openai", FROZEN_SETS, id="openai-frozen"),
        *(pytest.param(name, SETS, id=name, marks=pytest.mark.merge) for name in PROTOCOLS),  # a draft waits 20 s
    ],
)
def test_the_proxy_keeps_the_rules(protocol: str, sets: tuple[str, ...], tmp_path: Path) -> None:
    settings, model = ROWS[protocol]
    backend = start_backend(protocol, "127.0.0.1", 0)
    try:
        own = {name: value.replace("http://127.0.0.1:8790", backend.url) for name, value in settings.items()}
        checks = [check for check in load_suite() if not {*check.sets}.isdisjoint(sets)]
        with running_proxy(tmp_path, {**own, "PROXY_API_KEY": KEY}) as proxy:
            options = Options(url=proxy.url, model=model, key=KEY, backend=protocol)
            results = Runner(options, backend).run(checks, jobs=8)
    finally:
        backend.close()
    expected = read_expected(EXPECTED / f"{protocol}.toml")
    wrong = [
        describe_failure(result)
        for result in results
        if (result.outcome is Outcome.FAILED) != (result.check.id in expected) or result.outcome is Outcome.FAULT
    ]
    assert not wrong, "\n\n".join(wrong)


def test_the_page_lists_what_the_proxy_does_otherwise() -> None:
    section = PAGE.partition("## What this proxy does otherwise")[2]
    listed = set(re.findall(r"`([a-z-]+\.[a-z-]+)`", section))
    frozen = {check.id for check in load_suite() if not {*check.sets}.isdisjoint(FROZEN_SETS)}
    assert listed == {name for file in EXPECTED.glob("*.toml") for name in read_expected(file)} & frozen
