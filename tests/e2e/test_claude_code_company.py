"""Claude Code signs in at the proxy as at the gateway of a company, and works with the sign-in."""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from anthropic_proxy.console.keys.virtual_keys import find_period_end
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.routing.choices import find_tier
from tests.e2e.claude import NOTES, run_claude
from tests.e2e.company import ADMIN_KEY, EVERYBODY, FakeCompanyMachine, Machine, TwoPartReply, new_machine
from tests.e2e.terminal import terminal
from tests.support.fakes.anthropic import KEY as ANTHROPIC_KEY
from tests.support.fakes.anthropic import new_anthropic
from tests.support.fakes.openai_chat import KEY as OPENAI_KEY
from tests.support.fakes.openai_chat import new_openai
from tests.support.fakes.server import RequestLog, new_application, serving, serving_strictly
from tests.support.process_checks import reload
from tests.support.waiting import wait_for

EMAIL = "ann@example.com"
PROMPT = "Say exactly: still here"
SHORT = "[sign_in]\ntoken_minutes = 5\n"
"""Claude Code refreshes such a token before each request."""


@pytest.fixture(params=["openai", "relay"])
def machine(claude: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    if request.param == "openai":
        with serving_strictly(new_openai()) as upstream:
            settings = {"OPENAI_API_KEY": OPENAI_KEY, "OPENAI_BASE_URL": f"{upstream.url}/v1"}
            with new_machine(claude, tmp_path, settings) as machine:
                yield machine
    else:
        with serving_strictly(new_anthropic()) as upstream:
            settings = {"ANTHROPIC_API_KEY": ANTHROPIC_KEY, "ANTHROPIC_UPSTREAM_URL": upstream.url}
            with new_machine(claude, tmp_path, {**settings, "PREFERRED_PROVIDER": "anthropic"}) as machine:
                yield machine


def test_a_person_signs_in_works_and_signs_out(machine: Machine) -> None:
    shown = machine.sign_in()
    assert [message["state"] for message in shown if message["state"] != "connecting"] == [
        *("url_input", "trust_prompt", "polling", "confirm_account", "saving", "done")
    ]
    (sign_in,) = machine.list_sign_ins()
    assert (sign_in["email"], sign_in["address"]) == (EMAIL, "127.0.0.1")
    assert sign_in["device"].startswith("claude-code/")
    assert (machine.saved["url"], machine.saved["email"]) == (machine.proxy.url, EMAIL)
    run = run_claude(
        machine.claude, machine.proxy.url, machine.work, PROMPT, "--model", "claude-sonnet-5-5", home=machine.home
    )
    assert run.text.startswith("still here"), run.stderr
    listed = machine.admin.get("/admin/keys").json()["data"]
    assert [(key["name"], key["team"]) for key in listed] == [(EMAIL, "build")]
    wait_for(lambda: EMAIL in machine.admin.get("/api/requests").text)
    token = machine.saved["jwt"]
    assert machine.run("auth", "logout").returncode == 0
    assert machine.saved == {}
    assert machine.list_sign_ins() == []
    client = machine.proxy.client(headers={"authorization": f"Bearer {token}"})
    wait_for(lambda: client.get("/v1/models").status_code == 401)


def test_a_relay_makes_claude_code_request_the_models_of_today(claude: Path, tmp_path: Path) -> None:
    """Signed in at a gateway, version 2.1.332 requests older models by itself."""
    with serving_strictly(new_anthropic()) as upstream:
        settings = {"ANTHROPIC_API_KEY": ANTHROPIC_KEY, "ANTHROPIC_UPSTREAM_URL": upstream.url}
        with new_machine(claude, tmp_path, {**settings, "PREFERRED_PROVIDER": "anthropic"}) as machine:
            machine.sign_in()
            for words in ((), *(("--model", tier) for tier in ("opus", "sonnet", "haiku"))):
                run = run_claude(machine.claude, machine.proxy.url, machine.work, PROMPT, *words, home=machine.home)
                assert run.text.startswith("still here"), run.stderr
            sent = [one.body for one in upstream.journal.exchanges if one.path.startswith("/v1/messages?")]
        found = {(one["model"], one["output_config"]["effort"], one["max_tokens"]) for one in sent}
        known = next(row.known_models for row in PROVIDERS if row.serves_claude)
        newest = [next(name for name in known if find_tier(name) == tier) for tier in ("opus", "sonnet", "haiku")]
        assert found == {(name, "medium", 128_000) for name in newest}


def test_a_refused_person_reads_the_reason_in_the_terminal(claude: Path, tmp_path: Path) -> None:
    with new_machine(claude, tmp_path, {"SERVE_DEMO": "true"}, "[sign_in.groups.platform]\n") as machine:
        *_, last = machine.sign_in(is_accepted=False)
        assert last["state"] == "error"
        assert (
            f"{EMAIL} may not use Claude Code, because none of the groups of the user gives access. Ask an "
            "administrator of the proxy for access."
        ) in json.dumps(last)
        assert machine.saved == {}


@pytest.fixture
def short(claude: Path, tmp_path: Path) -> Iterator[FakeCompanyMachine]:
    """A machine whose tokens are refreshed before each request."""
    with serving_strictly(new_openai()) as upstream:
        settings = {"OPENAI_API_KEY": OPENAI_KEY, "OPENAI_BASE_URL": f"{upstream.url}/v1"}
        with new_machine(claude, tmp_path, settings, EVERYBODY + SHORT) as machine:
            yield machine


def test_four_programs_refresh_one_sign_in_and_a_revoked_one_is_refused(short: FakeCompanyMachine) -> None:
    short.sign_in()
    with ThreadPoolExecutor(4) as threads:
        started = [
            threads.submit(run_claude, short.claude, short.proxy.url, short.work, PROMPT, home=short.home)
            for _ in range(4)
        ]
        runs = [each.result() for each in started]
    assert [run.text[:10] for run in runs] == ["still here"] * 4, [run.stderr for run in runs]
    assert short.provider.refreshes >= 1
    assert short.saved["email"] == EMAIL
    assert len(short.list_sign_ins()) == 1
    # a provider that fails ends no work: the token is still valid
    short.provider.refresh_failure = (500, {"error": "server_error"})
    run = run_claude(short.claude, short.proxy.url, short.work, PROMPT, home=short.home)
    assert run.text.startswith("still here"), run.stderr
    short.provider.refresh_failure = None
    ended = short.admin.post(f"/admin/sign-ins/{EMAIL}/sign-out")
    assert ended.status_code == 200
    refused = run_claude(short.claude, short.proxy.url, short.work, PROMPT, home=short.home)
    assert refused.returncode == 1
    shown = refused.text or refused.stderr
    assert "/login" in shown or "claude auth login" in shown, shown


def test_a_refresh_in_the_middle_of_a_stream_fails_no_request(claude: Path, tmp_path: Path) -> None:
    reply = TwoPartReply()
    with serving_strictly(reply.application) as upstream:
        settings = {"OPENAI_API_KEY": OPENAI_KEY, "OPENAI_BASE_URL": f"{upstream.url}/v1"}
        with new_machine(claude, tmp_path, settings, EVERYBODY + SHORT) as machine, ThreadPoolExecutor(1) as threads:
            machine.sign_in()
            url, work, home = machine.proxy.url, machine.work, machine.home
            running = threads.submit(run_claude, claude, url, work, reply.PROMPT, home=home)
            try:
                wait_for(reply.is_streaming.is_set)
                token = machine.saved["jwt"]
                beside = run_claude(claude, url, work, PROMPT, home=home)
                assert beside.text.startswith("still here"), beside.stderr
                assert machine.saved["jwt"] != token
            finally:
                reply.may_end.set()
            run = running.result()
            assert run.text == "first second", run.stderr
            recorded = wait_for(
                lambda: machine.admin.get("/api/requests").json()["requests"], lambda found: len(found) >= 2
            )
            assert {line["status"] for line in recorded} == {200}


MANAGED = """
[sign_in]
contact = "https://go.example.org/limits"

[sign_in.groups."*"]
budgets = ["15000tokens/day"]

[managed_settings."*".env]
CLAUDE_CODE_ENABLE_TELEMETRY = "1"
OTEL_LOGS_EXPORTER = "otlp"
OTEL_METRICS_EXPORTER = "otlp"
OTEL_EXPORTER_OTLP_PROTOCOL = "http/protobuf"
OTEL_EXPORTER_OTLP_ENDPOINT = "PROXY"
CLAUDE_CODE_GATEWAY_HINT_HEADERS = "1"
"""


def test_managed_settings_apply_and_a_used_up_budget_is_explained(claude: Path, tmp_path: Path) -> None:
    with serving_strictly(new_openai()) as upstream:
        settings = {"OPENAI_API_KEY": OPENAI_KEY, "OPENAI_BASE_URL": f"{upstream.url}/v1", "BIG_MODEL": "gpt-4.1"}
        with new_machine(claude, tmp_path, settings, MANAGED) as machine:
            server, url = tmp_path / "server" / "anthropic-proxy.toml", machine.proxy.url
            server.write_text(MANAGED.replace("PROXY", url))
            reload(machine.proxy)
            machine.sign_in()
            run = run_claude(machine.claude, url, machine.work, PROMPT, home=machine.home)
            assert run.text.startswith("still here"), run.stderr
            refused = run_claude(machine.claude, url, machine.work, PROMPT, home=machine.home)
            end = find_period_end("day", datetime.now(UTC))
            assert end is not None
            assert refused.text == (
                f"The key '{EMAIL}' has used up its budget of 15,000 tokens per day · resets {end:%b} {end.day} · "
                "Ask for more: https://go.example.org/limits"
            )
            # the machine states the settings that it was sent
            pages = machine.proxy.client()
            pages.post("/dashboard/sign-in", data={"key": ADMIN_KEY, "next": ""})
            (key,) = machine.admin.get("/admin/keys").json()["data"]
            page = pages.get(f"/dashboard/keys/{key['id']}").text
            client = machine.proxy.client(headers={"authorization": f"Bearer {machine.saved['jwt']}"})
            checksum = client.get("/managed/settings").json()["checksum"]
            assert f"{checksum.removeprefix('sha256:')[:8]}, up to date, claude-c" in page, page
            # no collector is set, so that telemetry is dropped
            assert (
                'anthropic_proxy_telemetry_requests_total{result="dropped"} 0' not in machine.admin.get("/metrics").text
            )


COUNTED = """
[sign_in.groups."*"]
team = "build"

[managed_settings."*".env]
CLAUDE_CODE_ENABLE_TELEMETRY = "1"
OTEL_METRICS_EXPORTER = "otlp"
OTEL_EXPORTER_OTLP_PROTOCOL = "http/protobuf"
OTEL_EXPORTER_OTLP_ENDPOINT = "PROXY"
OTEL_METRIC_EXPORT_INTERVAL = "300"
"""


@pytest.mark.parametrize("temporality", ["delta", "cumulative"])
def test_lines_and_commits_of_sessions_are_added_up(claude: Path, tmp_path: Path, temporality: str) -> None:
    """The second run sends the sums since its own start, which are not those of the first one."""
    with serving_strictly(new_openai()) as upstream:
        settings = {"OPENAI_API_KEY": OPENAI_KEY, "OPENAI_BASE_URL": f"{upstream.url}/v1", "BIG_MODEL": "gpt-4.1"}
        with new_machine(claude, tmp_path, settings, COUNTED) as machine:
            url, work = machine.proxy.url, machine.work
            (tmp_path / "server" / "anthropic-proxy.toml").write_text(COUNTED.replace("PROXY", url))
            reload(machine.proxy)
            machine.sign_in()
            subprocess.run(["git", "init", "--quiet", str(work)], check=True)
            notes, target = work / "notes.txt", work / "loud.txt"
            names = {
                f"GIT_{who}_{what}": "ann@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
            }
            names["OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"] = temporality
            for number in (1, 2):
                notes.write_text(NOTES)
                target.unlink(missing_ok=True)
                for prompt, tools in (
                    (f"Read {notes} and write its words in upper case to {target}", "Read Write Edit"),
                    (f"Run the command `git add -A && git commit -q --allow-empty -m {number}`", "Bash"),
                ):
                    run = run_claude(claude, url, work, prompt, "--allowedTools", tools, home=machine.home, **names)
                    assert run.returncode == 0, run.stderr

            def read() -> list[dict[str, Any]]:
                groups = machine.admin.get("/api/usage", params={"by": "owner", "since": "24h"}).json()["groups"]
                return [group["activity"] for group in groups]

            (work_done,) = wait_for(read, lambda found: [one["commits"] for one in found] == [2])
            assert {name: work_done[name] for name in ("lines_added", "lines_removed", "edits_accepted")} == {
                "lines_added": 8,
                "lines_removed": 2,
                "edits_accepted": 4,
            }
            sessions = machine.admin.get("/api/usage", params={"by": "session", "since": "24h"}).json()["groups"]
            assert sorted(one["activity"]["commits"] for one in sessions) == [0, 0, 1, 1]
            person = machine.proxy.client(headers={"authorization": f"Bearer {machine.saved['jwt']}"})
            own = person.get("/api/usage", params={"by": "team", "since": "24h"}).json()["groups"]
            assert [(one["name"], one["activity"]["lines_added"]) for one in own] == [("build", 8)]


@pytest.mark.parametrize("prefix", ["openai", "anthropic"])
def test_a_rejected_key_of_the_company_is_no_reason_to_sign_in_again(claude: Path, tmp_path: Path, prefix: str) -> None:
    async def refuse(request: web.Request, _: bytes, journal: RequestLog) -> web.StreamResponse:
        journal.open(request, {}).status = 401
        error = {"type": "authentication_error", "message": "invalid x-api-key", "code": "invalid_api_key"}
        return web.json_response({"type": "error", "error": error}, status=401)

    with serving(new_application(refuse, RequestLog())) as upstream:
        settings = {
            "OPENAI_API_KEY": "sk-wrong-0123456789",
            "OPENAI_BASE_URL": f"{upstream.url}/v1",
            "ANTHROPIC_API_KEY": "sk-ant-wrong-0123456789",
            "ANTHROPIC_UPSTREAM_URL": upstream.url,
            "PREFERRED_PROVIDER": prefix,
        }
        with new_machine(claude, tmp_path, settings) as machine:
            machine.sign_in()
            saved = machine.saved
            run = run_claude(
                machine.claude, machine.proxy.url, machine.work, PROMPT, "--model", "sonnet", home=machine.home
            )
            assert run.text == (
                "Gateway refused the request · signing in again won't change this — check with your gateway "
                f"administrator · API Error: 403 {prefix}: the key is not accepted. The key comes from "
                f"{prefix.upper()}_API_KEY in the environment. It is a key of the proxy: tell its administrator."
            )
            assert machine.saved == saved
            requests = [
                one for one in upstream.journal.exchanges if "count" not in one.path and "tokens" not in one.path
            ]
            assert len(requests) == 1
            wait_for(lambda: f"({prefix} sent 401)" in machine.proxy.log)


LIMITED = """
[sign_in]
contact = "https://go.example.org/limits"

[sign_in.groups."*"]
budgets = ["0.10USD/month"]

[prices."openai/*"]
input = 0
output = 1000
"""
"""A token of a reply costs one percent of the budget: `Count to 78` uses 78 % of it.

A budget of a day would begin again in a test that runs over midnight.
"""


def test_a_budget_is_announced_at_75_and_95_percent_and_explained_at_100(claude: Path, tmp_path: Path) -> None:
    with serving_strictly(new_openai()) as upstream:
        settings = {"OPENAI_API_KEY": OPENAI_KEY, "OPENAI_BASE_URL": f"{upstream.url}/v1", "BIG_MODEL": "gpt-4.1"}
        with new_machine(claude, tmp_path, settings, LIMITED) as machine:
            machine.sign_in()
            with terminal(claude, machine.proxy.url, machine.work, home=machine.home) as screen:
                screen.type("Count to 78")
                screen.wait_for("77 78")
                for prompt, used in (("Count to 18", "78%"), ("Count to 5", "96%")):
                    # Claude Code drops a notice while it shows another one, for a few seconds
                    screen.redraw_until(lambda text: "You've used" not in text)
                    screen.type(prompt)
                    screen.wait_for_answer(f"You've used {used} of your usage credits · resets")
                screen.type("Count to 3")
                end = find_period_end("month", datetime.now(UTC))
                assert end is not None
                screen.wait_for(
                    f"The key '{EMAIL}' has used up its budget of $0.10 per month · resets {end:%b} {end.day} · "
                    "Ask for more: https://go.example.org/limits"
                )
            client = machine.proxy.client(headers={"authorization": f"Bearer {machine.saved['jwt']}"})
            assert client.get("/api/oauth/usage").json()["extra_usage"]["used_credits"] == 10
