"""`doctor --auto-mode`: the figures of a checker with known answers."""

import asyncio
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from anthropic_proxy.cli.doctor.auto_mode_report import format_run
from anthropic_proxy.console.doctor.auto_mode import (
    CONCURRENCY,
    CaseRuns,
    describe_auto_mode,
    find_interval,
    plan_measurement,
)
from anthropic_proxy.console.doctor.auto_mode_cases import AutoModeCase, load_cases
from anthropic_proxy.console.doctor.auto_mode_runs import MAX_RUNS, AutoModeRun, load_runs, store_run
from anthropic_proxy.console.doctor.run import select_backends
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.gateway.services import open_services
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.gateway.telemetry.log import Log
from tests.support.command_line import run_command
from tests.support.fakes.anthropic.models import MODELS
from tests.support.fakes.anthropic.rules import check_body
from tests.support.fakes.server import serving
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.ledger import new_receipt, store
from tests.support.scripted_answers import new_scripted_server
from tests.support.terminal import answer_questions
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
        self.cases = {
            self._key(
                list(case.user),
                case.tool,
                dict(case.input),
                [msgspec.json.encode(call.input).decode() for call in case.earlier],
            ): case
            for case in load_cases()
        }
        assert len(self.cases) == len(load_cases())

    def _key(self, *parts: Any) -> str:
        return json.dumps(parts, sort_keys=True)

    def find(self, body: Any) -> AutoModeCase:
        asked = json.loads(body["messages"][-1]["content"])
        given, earlier = asked["call"]["input"], [call["input"] for call in asked["earlier_calls"]]
        arguments = json.loads(given) if isinstance(given, str) else given
        return self.cases[self._key(asked["user_messages"], asked["call"]["tool"], arguments, earlier)]

    def __call__(self, _url: str, request: UpstreamRequest, _credential: Any) -> FakeResponse:
        case = self.find(json.loads(request.body))
        if case.kind in self.refused:
            return FakeResponse(200, *reply(text("I cannot help."), finish="content_filter"))
        if case.kind in self.unreadable:
            return FakeResponse(200, *reply(text("It looks fine to me.")))
        verdict = FLAGGED if case.dangerous != (case.kind in self.wrong) else HARMLESS
        return FakeResponse(200, *reply(text(json.dumps(verdict))))


async def measure(checker: Checker, settings: Mapping[str, str] = KEYS) -> AutoModeRun:
    harness = ProxyHarness(checker, **settings)
    auto_mode = structs.replace(harness.services.settings.auto_mode, model="openai/gpt-4.1")
    runs = CaseRuns(harness.services, await plan_measurement(harness.services, auto_mode))
    await runs.run()
    return runs.build_run()


async def test_an_honest_checker_has_no_miss_and_no_false_alarm() -> None:
    run = await measure(Checker())
    dangerous = sum(case.dangerous for case in load_cases())
    assert (run.without_verdict, run.reasons, run.missed, run.wrongly_flagged) == (0, {}, [], [])
    assert (run.misses.wrong, run.misses.verdicts) == (0, dangerous)
    assert (run.false_alarms.wrong, run.false_alarms.verdicts) == (0, run.cases - dangerous - run.without_model)
    assert (run.cases, run.is_partial, run.host) == (len(load_cases()), False, "api.openai.com")
    assert run.usage.requests == run.asked
    assert run.usage.input_tokens == 100 * run.asked


async def test_wrong_refused_and_unreadable_verdicts_are_told_apart() -> None:
    run = await measure(Checker(wrong=["money"], unreadable=["leaking"], refused=["deleting"]))
    lines = list(format_run(run, lists_all=False))
    rows = {line[2:19].strip(): line[19:] for line in lines[3:15]}
    assert rows["deleting"] == rows["leaking"] == "no verdict                no verdict"
    money, others = run.kinds["money"], run.kinds["production"]
    assert money.misses.wrong == money.misses.verdicts > 10
    assert money.false_alarms.wrong == money.false_alarms.verdicts > 5
    assert others.misses.wrong == others.false_alarms.wrong == 0
    assert rows["money"] == f"{money.misses!s:<26}{money.false_alarms}"
    of_kind = Counter(case.kind for case in load_cases() if case.kind in ("leaking", "deleting"))
    assert sum(run.reasons.values()) == run.without_verdict <= of_kind.total()
    assert {reason.partition(" ended with ")[0] for reason in run.reasons} == {
        "the checking model",
        "the reply of the checking model has not the required form",
    }
    assert sum(line.startswith("  ✕ money: ") for line in lines) == 10
    all_lines = list(format_run(run, lists_all=True))
    assert sum(line.startswith("  ✕ money: ") for line in all_lines) == money.misses.wrong
    assert sum(line.startswith("  ! money: ") for line in all_lines) == money.false_alarms.wrong
    assert all_lines[-1] == "    The model: It is dangerous. (rule: deleting)"
    assert all_lines.count("    The model: (rule: none)") == money.misses.wrong


class CountingChecker(Checker):
    """It counts the replies that are open at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.open = self.most = 0

    def __call__(self, url: str, request: UpstreamRequest, credential: Any) -> FakeResponse:
        self.open += 1
        self.most = max(self.most, self.open)
        checker, response = self, super().__call__(url, request, credential)

        class Counted(FakeResponse):
            async def read(self) -> bytes:
                await asyncio.sleep(0)
                return await response.read()

            async def close(self, *, wait_for_end: bool = False) -> None:
                checker.open -= not self.closed
                self.closed += 1

        return Counted(200)


@pytest.mark.parametrize(
    ("settings", "most"),
    [(KEYS, CONCURRENCY), ({"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OPENAI_WIRE": "chat"}, 1)],
    ids=["of a provider", "of this machine"],
)
async def test_a_model_of_this_machine_is_asked_about_one_call_at_a_time(
    settings: Mapping[str, str], most: int
) -> None:
    checker = CountingChecker()
    run = await measure(checker, settings)
    assert (checker.most, run.without_verdict) == (most, 0)


async def test_without_a_model_price_name_and_requests_are_of_what_answers_checks() -> None:
    """A route decides, so neither the first backend nor the model id of the tier does."""
    harness = ProxyHarness(
        Checker(),
        env_file=None,
        **KEYS,
        GROQ_API_KEY="gsk-0123456789",
        BIG_MODEL="openai/gpt-5",
        MIDDLE_MODEL="groq/openai/gpt-oss-120b",
    )
    measured = await plan_measurement(harness.services, harness.services.settings.auto_mode)
    runs = CaseRuns(harness.services, measured)
    await runs.run()
    assert measured.names == [runs.build_run().model]
    assert {f"{one.prefix}/{one.model}" for one in harness.receipts} == {*measured.names}


async def test_an_interrupted_run_has_what_was_checked() -> None:
    checker, done = Checker(), asyncio.Event()
    harness = ProxyHarness(checker, **KEYS)
    auto_mode = structs.replace(harness.services.settings.auto_mode, model="openai/gpt-4.1")
    runs = CaseRuns(harness.services, await plan_measurement(harness.services, auto_mode))
    running = asyncio.create_task(runs.run(lambda: done.set() if len(runs.results) == 40 else None))
    await done.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    run = runs.build_run()
    assert 40 <= run.cases < run.set_cases
    assert run.is_partial
    assert run.misses.verdicts + run.false_alarms.verdicts + run.without_model == run.cases
    assert (
        list(format_run(run, lists_all=False))[1]
        == f"  Interrupted: {run.cases} of {run.set_cases} cases were checked."
    )


async def test_stored_runs_are_read_again_and_the_oldest_are_removed(tmp_path: Path) -> None:
    run = await measure(Checker(wrong=["money"]))
    for number in range(MAX_RUNS + 2):
        file = store_run(tmp_path, structs.replace(run, started_at=1_700_000_000.0 + number))
    stored = load_runs(tmp_path)
    assert [one.started_at for one in stored] == [1_700_000_000.0 + number for number in range(MAX_RUNS + 1, 1, -1)]
    assert stored[0] == msgspec.convert(
        msgspec.to_builtins(structs.replace(run, started_at=stored[0].started_at)), AutoModeRun
    )
    file.write_text("{")
    (file.parent / "9.json").mkdir()
    assert len(load_runs(tmp_path)) == MAX_RUNS - 2
    assert load_runs(None) == load_runs(tmp_path / "none") == []


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
    assert "anthropic-proxy doctor --auto-mode openai/mine --yes" in ended.stderr
    assert ended.stdout == ""


def test_what_has_run_before_ctrl_c_is_shown_and_stored(tmp_path: Path) -> None:
    flagged = f"200 reply {json.dumps({'texts': [json.dumps(FLAGGED)]})}"
    script = [{"if": "always", "then": flagged, "times": 5}, {"if": "always", "then": "200 STALL"}]
    with serving(new_scripted_server(script)) as server:
        settings = {"OPENAI_WIRE": "chat", "OPENAI_BASE_URL": f"{server.url}/v1"}
        words = ("doctor", "--auto-mode", "openai/mine")
        screen = answer_questions(
            *words, answers=[(" 5 of ", "\x03")], directory=tmp_path, settings=settings, columns=120
        )
    assert screen.status == 130
    title = "  Checks of tool calls by openai/mine"  # behind the codes that remove the progress
    start = next(place for place, line in enumerate(screen.lines) if line.endswith(title))
    of_cases = f"5 of {len(load_cases())}"
    assert screen.lines[start + 1] == f"  Interrupted: {of_cases} cases were checked."
    (file,) = tmp_path.rglob("doctor/auto-mode/*.json")
    stored = json.loads(file.read_bytes())
    assert (stored["cases"], stored["misses"]["verdicts"] + stored["false_alarms"]["verdicts"]) == (5, 5)
    assert file.name in screen.text


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


ALL_KEYS = {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k", "GEMINI_API_KEY": "k", "PREFERRED_PROVIDER": "openai"}
CLAUDE = {f"{size}_MODEL": "anthropic/claude-sonnet-5-5" for size in ("BIG", "MIDDLE", "SMALL")}
NO_KEY = (
    "not answered: groq has no key: GROQ_API_KEY is not set. Set it in .env and reload the proxy, or in the "
    "environment and start it again."
)
OWN = {"BIG_MODEL": "openai/gpt-4.1", "MIDDLE_MODEL": "openai/gpt-4.1", "SMALL_MODEL": "openai/gpt-4.1-mini"}


@pytest.mark.parametrize(
    ("variables", "confirm_with", "text"),
    [
        (OWN, None, "answered by gpt-4.1 (openai)"),
        (OWN | {"AUTO_MODE_MODEL": "gemini/gemini-2.5-pro"}, None, "answered by gemini-2.5-pro (gemini)"),
        (OWN, "gemini/pro", "answered by gpt-4.1 (openai), confirmed by pro (gemini)"),
        (OWN | {"AUTO_MODE": "client"}, None, "answered by the client"),
        (OWN | {"AUTO_MODE": "off"}, None, "off"),
        (CLAUDE, None, "relayed to anthropic"),
        (CLAUDE | {"AUTO_MODE": "off"}, None, "relayed to anthropic"),
        (OWN | {"AUTO_MODE_MODEL": "groq/x"}, None, NO_KEY),
        (
            OWN | {"BIG_MODEL": "anthropic/claude-opus-5-5"},
            None,
            "relayed to anthropic; for others answered by gpt-4.1 (openai)",
        ),
        ({"PREFERRED_PROVIDER": "demo"}, None, "not answered, because the demo has no model"),
    ],
)
async def test_the_doctor_says_who_answers(variables: dict[str, str], confirm_with: str | None, text: str) -> None:
    loaded = load_settings(ALL_KEYS | variables, PROVIDERS, env_file=None)
    settings = structs.replace(loaded, auto_mode=structs.replace(loaded.auto_mode, confirm_with=confirm_with))
    services = await open_services(settings, log=Log(io.StringIO()))
    try:
        assert await describe_auto_mode(services, select_backends(services, ())) == text
    finally:
        await services.close()


@pytest.mark.parametrize(
    ("learned", "text"),
    [
        ((), "relayed to anthropic"),
        (("fields speed", "accepted dangerous-tool-use-2026-10-01"), "relayed to anthropic"),
        (("fields safeguards",), "answered by gpt-4.1 (openai), because anthropic rejected or ignored the question"),
        (
            ("betas fast-mode-2026-02-01 dangerous-tool-use-2026-10-01",),
            "answered by gpt-4.1 (openai), because anthropic rejected or ignored the question",
        ),
    ],
)
async def test_the_doctor_knows_that_a_server_does_not_answer_the_question(
    learned: Sequence[str], text: str, tmp_path: Path
) -> None:
    variables = ALL_KEYS | CLAUDE | {"AUTO_MODE_MODEL": "openai/gpt-4.1", "DATABASE_URL": f"sqlite:///{tmp_path}/l.db"}
    settings = load_settings(variables, PROVIDERS, env_file=None)
    names = {"provider": "anthropic", "prefix": "anthropic", "model": "claude-sonnet-5-5"}
    earlier, latest = (new_receipt(number, adaptations=[*known], **names) for number, known in ((1, ()), (2, learned)))
    services = await open_services(settings, log=Log(io.StringIO()))
    try:
        backends = select_backends(services, ())
        assert await describe_auto_mode(services, backends) == "relayed to anthropic"  # nothing is stored yet
        await store(settings, earlier, latest)
        assert await describe_auto_mode(services, backends) == text
    finally:
        await services.close()


class AlwaysThinking(Checker):
    """A checking model behind Anthropic's API, which refuses what the real one refuses. It always thinks."""

    def __call__(self, _url: str, request: UpstreamRequest, _credential: Any) -> FakeResponse:
        body = json.loads(request.body)
        if breaches := [*check_body(body, MODELS[body["model"]])]:
            error = {"type": "error", "error": {"type": "invalid_request_error", "message": breaches[0].message}}
            return FakeResponse(400, json.dumps(error).encode())
        case = self.find(body)
        verdict = {"type": "text", "text": json.dumps(FLAGGED if case.dangerous else HARMLESS)}
        thinking = {"type": "thinking", "thinking": "", "signature": "Ev"}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"]}
        message |= {"content": [thinking, verdict], "stop_reason": "end_turn", "stop_sequence": None}
        return FakeResponse(200, json.dumps(message | {"usage": {"input_tokens": 100, "output_tokens": 60}}).encode())


@pytest.mark.parametrize("model", ["claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-haiku-4-5"])
async def test_a_model_that_always_thinks_gives_verdicts(model: str) -> None:
    harness = ProxyHarness(AlwaysThinking(), ANTHROPIC_API_KEY="sk-ant-0123456789")
    auto_mode = structs.replace(harness.services.settings.auto_mode, model=f"anthropic/{model}")
    runs = CaseRuns(harness.services, await plan_measurement(harness.services, auto_mode))
    await runs.run()
    run = runs.build_run()
    assert (run.without_verdict, run.reasons, run.missed, run.wrongly_flagged) == (0, {}, [], [])
