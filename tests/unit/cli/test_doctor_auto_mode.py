"""`doctor --auto-mode`: the figures of a checker with known answers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.cli.doctor.auto_mode import CaseResult, Usage, find_interval, find_rate, format_run, run_cases
from anthropic_proxy.cli.doctor.auto_mode_cases import AutoModeCase, load_cases
from anthropic_proxy.engine.hooks import Receipt
from anthropic_proxy.engine.wires.contract import UpstreamRequest
from tests.support.command_line import run_command
from tests.support.fakes.server import serving
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.scripted_answers import new_scripted_server
from tests.support.tool_loop import reply, text

KEYS = {"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_WIRE": "chat"}
FLAGGED = {"rule": "deleting", "verdict": "flagged", "explanation": "It is dangerous."}
HARMLESS = {"rule": "none", "verdict": "not_flagged", "explanation": ""}


class Checker:
    """A checking model that knows the labels. `wrong` are kinds for which it gives the opposite verdict."""

    def __init__(
        self, *, wrong: Sequence[str] = (), unreadable: Sequence[str] = (), refused: Sequence[str] = ()
    ) -> None:
        self.wrong, self.unreadable, self.refused = wrong, unreadable, refused
        self.cases = {self._key(list(case.user), dict(case.input)): case for case in load_cases()}
        assert len(self.cases) == len(load_cases())

    def _key(self, user: Any, arguments: Any) -> str:
        return json.dumps([user, arguments], sort_keys=True)

    def find(self, body: Any) -> AutoModeCase:
        asked = json.loads(body["messages"][-1]["content"])
        given = asked["call"]["input"]
        return self.cases[self._key(asked["user_messages"], json.loads(given) if isinstance(given, str) else given)]

    def __call__(self, _url: str, request: UpstreamRequest, _credential: Any) -> FakeResponse:
        case = self.find(json.loads(request.body))
        if case.kind in self.refused:
            return FakeResponse(200, *reply(text("I cannot help."), finish="content_filter"))
        if case.kind in self.unreadable:
            return FakeResponse(200, *reply(text("It looks fine to me.")))
        verdict = FLAGGED if case.dangerous != (case.kind in self.wrong) else HARMLESS
        return FakeResponse(200, *reply(text(json.dumps(verdict))))


async def measure(checker: Checker) -> tuple[Sequence[CaseResult], list[Receipt]]:
    harness = ProxyHarness(checker, **KEYS)
    receipts: list[Receipt] = []
    auto_mode = structs.replace(harness.services.settings.auto_mode, model="openai/gpt-4.1")
    return await run_cases(harness.services, auto_mode, receipts), receipts


async def test_an_honest_checker_has_no_miss_and_no_false_alarm() -> None:
    results, receipts = await measure(Checker())
    dangerous = sum(case.dangerous for case in load_cases())
    without_model = sum(one.check.verdict == "harmless" for one in results)
    assert [one.check for one in results if one.check.verdict == "unavailable"] == []
    assert [one.case for one in results if one.check.verdict == "harmless" and one.case.dangerous] == []
    assert find_rate(results, dangerous=True).wrong == find_rate(results, dangerous=False).wrong == 0
    assert find_rate(results, dangerous=True).verdicts == dangerous
    assert find_rate(results, dangerous=False).verdicts == len(results) - dangerous - without_model
    assert (len(receipts), sum(one.input_tokens for one in receipts)) == (
        len(results) - without_model,
        100 * len(receipts),
    )


async def test_wrong_refused_and_unreadable_verdicts_are_told_apart() -> None:
    results, receipts = await measure(Checker(wrong=["money"], unreadable=["leaking"], refused=["deleting"]))
    usage = Usage(len(receipts), 1_000, 100, None)
    lines = list(format_run("openai/gpt-4.1", results, usage, "unknown"))
    rows = {line[2:19].strip(): line[19:] for line in lines[3:15]}
    assert {name: rows[name] for name in ("deleting", "leaking", "money", "production")} == {
        "deleting": "no verdict                no verdict",
        "leaking": "no verdict                no verdict",
        "money": "13 of 13 (77.2–100.0 %)   10 of 10 (72.2–100.0 %)",
        "production": rows["production"],
    }
    assert rows["production"].startswith("0 of ")
    assert sum(line.startswith("  ✕ money: ") for line in lines) == 10
    assert lines[-1] == "  3 further ones: anthropic-proxy doctor --auto-mode --json"


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (1, 100, 0.0018, 0.0545), (0, 0, 0.0, 1.0)],
)
def test_intervals_are_those_of_wilson(count: int, total: int, low: float, high: float) -> None:
    assert tuple(round(limit, 4) for limit in find_interval(count, total)) == (low, high)


def test_many_requests_need_a_confirmation(tmp_path: Path) -> None:
    with serving(new_scripted_server([])) as server:
        settings = {**KEYS, "OPENAI_BASE_URL": f"{server.url}/v1"}
        ended = run_command("doctor", "--auto-mode", "openai/mine", directory=tmp_path, settings=settings)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[0].startswith("Measuring openai/mine: about ")
    assert "anthropic-proxy doctor --auto-mode --yes" in ended.stderr
    assert ended.stdout == ""


def test_a_checker_that_rejects_all_requests_has_no_rate(tmp_path: Path) -> None:
    rejection = '404 {"error": {"message": "The model does not exist", "type": "x"}}'
    with serving(new_scripted_server([{"if": "always", "then": rejection}])) as server:
        settings = {**KEYS, "OPENAI_BASE_URL": f"{server.url}/v1"}
        words = ("doctor", "--auto-mode", "openai/mine", "--yes", "--json")
        ended = run_command(*words, directory=tmp_path, settings=settings)
    printed = json.loads(ended.stdout)
    assert (ended.returncode, printed["model"]) == (0, "openai/mine")
    assert printed["misses"] == printed["false_alarms"] == {"wrong": 0, "verdicts": 0, "low": 0.0, "high": 1.0}
    assert printed["without_verdict"] + printed["without_model"] == printed["cases"] == len(load_cases())
