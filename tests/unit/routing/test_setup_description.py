"""Description of the providers for plugins: open circuits and keys in cooldown."""

from datetime import date
from pathlib import Path

import pytest
from msgspec import structs

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.routing.health import FAILURES_TO_OPEN, MIN_OPEN_SECONDS, CircuitBreakers
from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.gateway.readiness import describe_setup
from anthropic_proxy.gateway.server.web_page import build_setup_view
from anthropic_proxy.gateway.settings import load_settings
from tests.support.harness import ProxyHarness

TODAY = date(2026, 11, 26)


def test_a_provider_is_described_with_its_circuit_and_cooldowns() -> None:
    settings = load_settings({"GROQ_API_KEY": "key-one,key-two"}, PROVIDERS, env_file=None)
    breakers = CircuitBreakers(clock=lambda: 100.0)
    credentials = Credentials(settings, clock=lambda: 100.0)
    before = {
        one.name: one for one in describe_setup(settings, Catalog(), breakers, credentials, today=TODAY).providers
    }
    assert (before["groq"].open_seconds, before["groq"].cooldowns, before["groq"].key_count) == (0.0, [], 2)
    for _ in range(FAILURES_TO_OPEN):
        breakers.record_failure("groq api.groq.com", UpstreamError("groq returned HTTP 503.", status=503), "local")
    credentials.start_cooldown("key-two", 30.0)
    found = {one.name: one for one in describe_setup(settings, Catalog(), breakers, credentials, today=TODAY).providers}
    groq = found["groq"]
    assert (groq.open_seconds, groq.failure) == (MIN_OPEN_SECONDS, "groq returned HTTP 503.")
    assert (groq.cooldowns, groq.key_count) == ([30.0], 2)
    assert (found["openai"].open_seconds, found["openai"].failure) == (0.0, "")


def test_a_problem_is_that_of_the_provider_that_has_it(tmp_path: Path) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text(
        '[providers.groq-2]\nbase_url = "https://models.example/v1"\napi_key = { env = "NO_KEY" }\n'
    )
    environ = {"BIG_MODEL": "ollama/qwen3", "PREFERRED_PROVIDER": "ollama", "OLLAMA_API_BASE": "http://127.0.0.1:9"}
    settings = load_settings(environ, PROVIDERS, env_file=str(tmp_path / ".env"))
    catalog = ProxyHarness(lambda *_: pytest.fail("calls nobody"), **environ).services.catalog
    found = {one.name: (one.state, one.remedy) for one in describe_setup(settings, catalog, today=TODAY).providers}
    assert found["groq"] == (
        "unset",
        "groq has no key: GROQ_API_KEY is not set. Set it in .env and reload the proxy, or in the environment and "
        "start it again.",
    )
    session = structs.replace(settings, session_command="code")
    assert next(
        one.remedy for one in describe_setup(session, Catalog(), today=TODAY).providers if one.name == "groq"
    ) == (
        f"groq has no key: GROQ_API_KEY is not set. Set it in {tmp_path / '.env'}, which applies at once, or in the "
        "environment and start Claude Code again with anthropic-proxy code."
    )
    assert found["groq-2"][0] == "problem"
    assert found["ollama"] == (
        "problem",
        "Ollama did not answer at http://127.0.0.1:9. Start it with  ollama serve  or set its address.",
    )


def test_a_retired_model_of_the_settings_is_an_advice_with_the_line_to_write(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DEEPSEEK_API_KEY=one\nBIG_MODEL=deepseek/deepseek-chat\n")
    (tmp_path / "anthropic-proxy.toml").write_text("[providers.deepseek]\n")
    settings = load_settings({}, PROVIDERS, env_file=str(tmp_path / ".env"))
    _, problem = describe_setup(settings, Catalog(), today=TODAY).problems  # the first one: no small model
    assert (problem.sign, problem.cause, problem.remedy) == (
        "!",
        "DeepSeek retired deepseek-chat on 24 July 2026. Its successor:  ",
        "BIG_MODEL=deepseek/deepseek-flash",
    )
    assert len(describe_setup(settings, Catalog(), today=date(2026, 7, 1)).problems) == 1


def test_pages_name_a_settings_file_without_its_folder(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LOG_LEVL=debug\n")
    settings = load_settings({}, PROVIDERS, env_file=str(tmp_path / ".env"))
    text = ".env line 1: LOG_LEVL is not a setting. Did you mean:  LOG_LEVEL"
    assert [one.text for one in describe_setup(settings, Catalog(), today=TODAY).problems] == [text]
    assert [one.text for one in build_setup_view(settings, Catalog(), {}).problems] == [text]
