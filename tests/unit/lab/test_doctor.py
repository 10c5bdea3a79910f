"""The doctor against strict servers with deviations: it finds each of them, with the evidence."""

import asyncio
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from anthropic_proxy.console.doctor.findings import Diagnosis
from anthropic_proxy.console.doctor.fixes import FailedCall, Fix
from anthropic_proxy.console.doctor.probes import PROBES
from anthropic_proxy.console.doctor.report import Report
from anthropic_proxy.console.doctor.run import run_doctor, select_backends
from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.services import open_services
from anthropic_proxy.gateway.settings import Settings, load_settings
from anthropic_proxy.gateway.telemetry.log import Log
from tests.support.fakes.anthropic.server import KEY, new_anthropic
from tests.support.fakes.compatible.quirks import QUIRKS, new_quirk_server
from tests.support.fakes.server import serving
from tests.support.harness import RecordingSink, new_client_request
from tests.support.scripted_answers import new_scripted_server

EXPECTED: Mapping[str, Mapping[str, object]] = {
    "completion_limit": {"output_limit_field": "max_completion_tokens"},
    "no_developer": {"system_role": "system", "effort_form": "omit", "mid_conversation_system": "remind"},
    "no_parallel_calls": {"sends_parallel_tool_calls": False},
    "no_images": {},
    "no_webp": {"image_types": ("image/jpeg", "image/png", "image/gif")},
    "tags": {"reasoning_mode": "always"},
    "whole_calls": {},
    "no_usage": {},
    "reasoning": {"effort_form": "reasoning_effort"},
    "unknown_a": {
        "sends_include_usage": False,
        "sends_strict": False,
        "call_id_form": "nine",
        "requires_message_after_results": True,
    },
    "unknown_b": {
        "omits_null_content": True,
        "accepts_forced_tool": "never",
        "sampling_support": "never",
        "reply_schema_form": "ask",
    },
}
"""Server → dialect fields that the doctor must find."""


def settings_for(url: str, model: str) -> Mapping[str, str]:
    variables = {"OPENAI_BASE_URL": f"{url}/v1", "BIG_MODEL": f"openai/{model}", "SMALL_MODEL": f"openai/{model}"}
    return {**variables, "PREFERRED_PROVIDER": "openai"}


async def _examine(url: str, model: str) -> Report:
    return await _run(load_settings(settings_for(url, model), PROVIDERS, env_file=None))


async def _run(settings: Settings) -> Report:
    services = await open_services(settings, log=Log(io.StringIO()))
    try:
        return await run_doctor(services, select_backends(services, ()))
    finally:
        await services.close()


def examine(name: str) -> tuple[Report, Diagnosis]:
    with serving(new_quirk_server(name)) as server:
        report = asyncio.run(_examine(server.url, QUIRKS[name].model))
    (diagnosis,) = report.diagnoses
    return report, diagnosis


@pytest.mark.parametrize("name", QUIRKS)
def test_the_dialect_of_a_server_is_found(name: str) -> None:
    _, diagnosis = examine(name)
    found = {evidence.field: evidence.value for evidence in diagnosis.evidence}
    assert {field: found.get(field) for field in EXPECTED[name]} == EXPECTED[name]
    assert all(evidence.status or evidence.error for evidence in diagnosis.evidence)
    assert diagnosis.state_of("tools") == diagnosis.state_of("streaming") == "works"
    assert diagnosis.context_window == 65_536


@pytest.mark.parametrize("name", QUIRKS)
def test_with_the_written_table_the_server_rejects_nothing(name: str, tmp_path: Path) -> None:
    with serving(new_quirk_server(name)) as server:
        variables = settings_for(server.url, QUIRKS[name].model)
        plain = load_settings(variables, PROVIDERS, env_file=None)
        (found,) = asyncio.run(_examine(server.url, QUIRKS[name].model)).servers
        asyncio.run(_send_probes(plain, f"openai/{QUIRKS[name].model}"))
        rejected = {violation["rule"] for violation in server.journal.violations()}
        server.journal.exchanges.clear()
        (tmp_path / "anthropic-proxy.toml").write_text(found.table, encoding="utf-8")
        settings = load_settings({}, PROVIDERS, env_file=str(tmp_path / ".env"))
        errors = asyncio.run(_send_probes(settings, f"{found.name}/{QUIRKS[name].model}"))
        assert (errors, server.journal.violations()) == ({}, [])
    assert "quirk" in rejected or not QUIRKS[name].rules


async def _send_probes(settings: Settings, model: str) -> Mapping[str, str]:
    """Send the request of each probe as a client would, each with fresh observations. Return the errors."""
    errors = {}
    for probe in PROBES:
        services = await open_services(settings, log=Log(io.StringIO()))
        sink = RecordingSink()
        body = json.dumps({"model": model, **probe.body}).encode()
        await Exchange(services, new_client_request(body), sink).run()
        await services.close()
        if sink.error is not None:
            errors[probe.name] = sink.error.message
    return errors


def test_facts_beside_the_dialect_are_found() -> None:
    assert examine("no_images")[1].outcomes["images"].detail == "HTTP 400"
    assert examine("no_usage")[1].quirks == {"usage": "the stream has no token counts, so the proxy estimates them"}
    assert examine("whole_calls")[1].quirks == {"tool arguments": "each tool call arrives in one fragment"}
    assert examine("tags")[1].quirks == {
        "thinking tags": "the text contains reasoning in tags, which the proxy separates"
    }
    _, reasoning = examine("reasoning")
    assert reasoning.quirks == {"reasoning field": "reasoning arrives in the field reasoning_content"}
    assert reasoning.efforts == ["low", "medium", "high"]
    assert reasoning.state_of("thinking replay") == "works"


@pytest.mark.parametrize("form", ["json_schema", "ask"])
def test_a_model_that_ignores_the_schema_is_named_in_each_form_of_the_request(form: str, tmp_path: Path) -> None:
    with serving(new_scripted_server([])) as server:
        (tmp_path / "anthropic-proxy.toml").write_text(
            f'[providers.own]\nbase_url = "{server.url}/v1"\n[providers.own.dialect]\nreply_schema_form = "{form}"\n'
        )
        variables = {"PREFERRED_PROVIDER": "own", "BIG_MODEL": "own/m", "SMALL_MODEL": "own/m"}
        report = asyncio.run(_run(load_settings(variables, PROVIDERS, env_file=str(tmp_path / ".env"))))
    outcome = report.diagnoses[0].outcomes["structured output"]
    assert (outcome.state, outcome.detail) == ("unsupported", "ignored")


def test_a_problem_that_ends_with_the_reason_of_a_provider_has_a_full_stop(tmp_path: Path) -> None:
    with serving(
        new_scripted_server([{"if": "always", "then": '400 {"error": {"message": "Account state: suspended"}}'}])
    ) as server:
        variables = {"OPENAI_API_KEY": "sk-0123456789", "OPENAI_BASE_URL": f"{server.url}/v1"}
        report = asyncio.run(_run(load_settings(variables, PROVIDERS, env_file=str(tmp_path / ".env"))))
    assert [fix.problem for fix in report.fixes] == ["Account state: suspended."]


def test_the_dialect_is_written_with_its_evidence() -> None:
    report, _ = examine("unknown_a")
    (server,) = report.servers
    assert (
        "# streaming: HTTP 400 for "
        '"stream_options": {"include_usage": true}\n#   Bad Request\nsends_include_usage = false\n' in server.table
    )
    remedies = [fix.remedy for fix in report.fixes]
    assert (report.exit_status, remedies) == (1, ["the table below, in anthropic-proxy.toml"])


def test_a_configured_server_keeps_its_own_dialect(tmp_path: Path) -> None:
    with serving(new_quirk_server("unknown_a")) as first, serving(new_quirk_server("no_usage")) as second:
        (tmp_path / "anthropic-proxy.toml").write_text(
            f'[providers.one]\nbase_url = "{first.url}/v1"\nmodels = ["my-model"]\n'
            "[providers.one.dialect]\nsends_strict = false\n"
            f'[providers.two]\nbase_url = "{second.url}/v1"\nmodels = ["my-model"]\n',
            encoding="utf-8",
        )
        settings = load_settings({}, PROVIDERS, env_file=str(tmp_path / ".env"))
        report = asyncio.run(_run(settings))
    one, two = report.servers
    assert (one.name, two.name) == ("one", "two")
    assert "[providers.one.dialect]\nsends_strict = false\n# tool results: HTTP 400" in one.table
    assert "[providers.two.dialect]\n# top_k: HTTP 400" in two.table


def test_the_provider_with_the_messages_api_is_examined_by_its_own_models() -> None:
    with serving(new_anthropic()) as server:
        variables = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_UPSTREAM_URL": server.url, "PREFERRED_PROVIDER": "anthropic"}
        report = asyncio.run(_run(load_settings(variables, PROVIDERS, env_file=None)))
    states = {state for one in report.diagnoses for outcome in one.outcomes.values() for state in [outcome.state]}
    assert (states, report.exit_status, len(report.diagnoses)) == ({"works"}, 0, 4)


def test_a_missing_package_has_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litellm", None)
    variables = {"MISTRAL_API_KEY": "k", "BIG_MODEL": "mistral/m", "SMALL_MODEL": "mistral/m"}
    report = asyncio.run(_run(load_settings(variables, PROVIDERS, env_file=None)))
    text = (
        "mistral/m needs the line [providers.mistral] in anthropic-proxy.toml and the key of Mistral in "
        "MISTRAL_API_KEY, or else LiteLLM, which is not installed"
    )
    (diagnosis,) = report.diagnoses
    assert (diagnosis.problem.kind, diagnosis.problem.message) == ("package", text)
    failed = (FailedCall(provider="litellm", error_code="package-missing"),)
    fix = Fix(name="litellm", problem=f"{text}.", remedy="anthropic-proxy add litellm", failed=failed)
    assert (report.exit_status, report.fixes) == (1, [fix])
