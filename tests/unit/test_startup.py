"""Output at start-up, compared with the screens to the character."""

import ast
import io
import json
import re
import sys
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pytest
from msgspec import structs

from anthropic_proxy.engine.advice import SIGNS, list_texts
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.gateway.problems import find_problems
from anthropic_proxy.gateway.services import PluginRoutes
from anthropic_proxy.gateway.settings import SignInGroup, SignInSettings, load_settings
from anthropic_proxy.gateway.settings.key_rules import Rules, decode_budget
from anthropic_proxy.gateway.startup_summary import log_startup_summary
from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.plugins import Route, RouteRequest, RouteResponse
from anthropic_proxy.secrets import Secret
from tests.support.golden_texts import Check, mask
from tests.support.harness import ProxyHarness

NOW = date(2026, 11, 20)
OPENAI = {"OPENAI_API_KEY": "sk-proj-0123456789ab4f2a"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide credentials of this machine."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def screen(
    environ: dict[str, str],
    today: date = NOW,
    columns: int | None = None,
    form: Literal["plain", "json"] = "plain",
    **changes: Any,
) -> str:
    """Return the summary of a server with these variables. `changes`: services other than those of the variables."""
    proxy = ProxyHarness(lambda *_: pytest.fail("start-up calls nobody"), **environ)
    stream = io.StringIO()
    services = structs.replace(proxy.services, log=Log(stream, form, columns=columns), **changes)
    log_startup_summary(services, "http://127.0.0.1:8082", today)
    text = stream.getvalue()
    if columns:  # the number of providers decides where these lines are divided
        text = re.sub(r"\s+not set:", "\n  not set:", text)
    text = re.sub(r"not set:(\s+[a-z0-9]+)+(?=\n)", "not set: OTHERS", text)
    return text.rstrip()


def findings(environ: dict[str, str], today: date = NOW, **changes: Any) -> str:
    """Return what is ready and the lines that warn."""
    signs = tuple(f"{sign} " for sign, _ in SIGNS.values())
    lines = [line.strip() for line in screen(environ, today, **changes).splitlines()]
    ready = [line.partition("   ")[0] for line in lines if line.startswith("ready: ")]
    return "\n".join([*ready, *(line for line in lines if line.startswith(signs))])


def test_golden_summaries(golden: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`golden_texts/startup`: `screen` or `findings`, a date and a width; `env`, files, and the models of Ollama."""
    monkeypatch.chdir(tmp_path)
    for name, content in (("with", {"project_id": "from-the-file"}), ("without", {})):
        Path(f"{name}_project.json").write_text(json.dumps({"type": "service_account", **content}))
    Path("bad.json").write_text("no json")
    Path("folder").mkdir()

    def show(given: str) -> str:
        environ: dict[str, str] = {}
        changes: dict[str, Any] = {}
        first, *lines = given.split("\n")
        for file in (".env", "anthropic-proxy.toml"):
            Path(file).unlink(missing_ok=True)
        for line in lines:
            word, _, rest = line.partition(" ")
            match word:
                case "env":
                    environ = json.loads(rest.replace("HOME", str(tmp_path)))
                case ".env" | "anthropic-proxy.toml":
                    Path(word).write_text(ast.literal_eval(rest), "utf-8")
                    changes["settings"] = load_settings({}, PROVIDERS, env_file=".env")
                case "ollama":
                    changes["catalog"] = Catalog({"ollama": rest.split()})
        kind, today, *columns = first.split()
        if kind == "screen":
            text = screen(environ, date.fromisoformat(today), int(columns[0]) if columns else None, **changes)
        else:
            text = findings(environ, date.fromisoformat(today), **changes)
        return mask(text, HOME=str(tmp_path))

    golden("startup", show)


async def answer(_: RouteRequest) -> RouteResponse:
    return RouteResponse()


@pytest.mark.parametrize(
    ("url", "dashboard"),
    [
        ("", "http://127.0.0.1:8082/dashboard"),
        ("https://proxy.example.org", "https://proxy.example.org/dashboard"),
        ("https://example.org/proxy", "https://example.org/proxy/dashboard"),
    ],
)
def test_the_address_of_browsers_and_of_people_who_sign_in_is_named(url: str, dashboard: str) -> None:
    company = {
        "DASHBOARD_URL": url,
        "VIRTUAL_KEYS": "true",
        "OIDC_ISSUER": "https://login.example.org",
        "OIDC_CLIENT_ID": "proxy",
        "SIGN_IN_SECRET": "0123456789abcdef0123456789abcdef",
    }
    environ = {**OPENAI, **(company if url else {})}
    served = PluginRoutes([Route(path="/dashboard", respond=answer)])
    lines = screen(environ, plugin_routes=served).splitlines()
    assert lines[0].split()[2:] == ["http://127.0.0.1:8082", "dashboard", dashboard]
    assert [line for line in lines if "sign-in" in line] == ([f"  sign-in: {url}"] if url else [])
    event = json.loads(screen(environ, form="json", plugin_routes=served).splitlines()[0])
    assert (event["dashboard"], event["sign_in"]) == (dashboard, url)


def test_every_successor_is_known_and_served() -> None:
    for row in PROVIDERS:
        for model, retired in row.retired_models.items():
            assert retired.successor in row.known_models, f"{row.name}/{model} → {retired.successor}"
            assert retired.successor not in row.retired_models, f"{row.name}/{model} → {retired.successor}"
            assert date.fromisoformat(retired.retired_on)


def test_a_successor_that_the_server_does_not_list_is_replaced_by_a_listed_model() -> None:
    groq = {**OPENAI, "GROQ_API_KEY": "gsk_0123456789ab77c1", "PREFERRED_PROVIDER": "openai"}
    models = "groq/llama-3.1-8b-instant,groq/llama-3.3-70b-versatile"
    catalog = Catalog(listings={"groq": ("openai/gpt-oss-20b", "qwen/qwen3-32b")})
    (one,) = findings({**groq, "FALLBACK_OPUS": models.partition(",")[2]}, catalog=catalog).splitlines()[1:]
    assert one == (
        "! Groq retired llama-3.3-70b-versatile on 16 August 2026, and its successor is not in the list of the server. "
        "Another model:  FALLBACK_OPUS=groq/openai/gpt-oss-20b"
    )
    (several,) = findings({**groq, "FALLBACK_OPUS": f"{models},openai/gpt-5.5"}, catalog=catalog).splitlines()[1:]
    assert several == (
        "! Groq retired llama-3.1-8b-instant and llama-3.3-70b-versatile on 16 August 2026, and not all of their "
        "successors are in the list of the server. Other models:  FALLBACK_OPUS=groq/openai/gpt-oss-20b,openai/gpt-5.5"
    )


def test_litellm_is_named_with_what_it_lacks() -> None:
    environ = {"PREFERRED_PROVIDER": "litellm", "BIG_MODEL": "mistral/m", "SMALL_MODEL": "mistral/s"}
    if find_spec("litellm") is None:
        assert findings(environ) == "ready: none\n✕ LiteLLM is not installed:  anthropic-proxy add litellm"
    else:
        missing = "✕ mistral has no key: LiteLLM reads it from a variable MISTRAL_…, and none is set."
        assert findings(environ).splitlines()[1:] == [missing]


def test_without_litellm_a_name_of_the_preferred_server_gets_the_line_for_it() -> None:
    environ = {
        "OPENAI_API_KEY": "sk-or-0123456789ab4f2a",
        "OPENAI_BASE_URL": "https://openrouter.ai/api/v1",
        "BIG_MODEL": "deepseek/deepseek-chat",
        "SMALL_MODEL": "openai/qwen/qwen3-coder",
    }
    if find_spec("litellm") is None:
        assert findings(environ).splitlines() == [
            "ready: openai (…4f2a, environment)",
            "✕ LiteLLM is not installed:  anthropic-proxy add litellm",
            "✕ BIG_MODEL (environment) names a model of LiteLLM. For that of openrouter.ai:  "
            "BIG_MODEL=openai/deepseek/deepseek-chat",
        ]


@pytest.mark.parametrize(
    ("budget", "models", "is_problem"),
    [
        ("5USD/day", "no-such-model", True),
        ("5USD/day for openai/no-such-*", "no-such-model", True),
        ("5USD/day", "gpt-4.1", False),
        ("5USD/day soft", "no-such-model", False),
        ("5USD/day for gpt-*", "no-such-model", False),
        ("500tokens/day", "no-such-model", False),
    ],
)
def test_a_budget_in_dollars_needs_the_prices_of_the_models_in_use(budget: str, models: str, is_problem: bool) -> None:
    group = SignInGroup(name="developers", rules=Rules(budgets=(decode_budget(budget),)))
    sign_in = SignInSettings(secrets=(Secret("s" * 32),), groups=(group,))
    environ = {**OPENAI, "BIG_MODEL": f"openai/{models}", "SMALL_MODEL": "openai/gpt-4.1-mini"}
    expected = (
        'The limits of [sign_in.groups."developers"] have a budget in dollars, and openai/no-such-model has no known '
        "price, so that such requests are rejected. Add to anthropic-proxy.toml:  "
        '[prices."openai/no-such-model"]  with input and output'
    )
    settings = structs.replace(load_settings(environ, PROVIDERS, env_file=None), sign_in=sign_in)
    assert (expected in list_texts(find_problems(settings, Catalog(), NOW))) is is_problem


def test_all_whose_budgets_reject_the_same_models_are_named_together() -> None:
    rules = Rules(budgets=(decode_budget("5USD/day"),))
    groups = tuple(SignInGroup(name=name, rules=rules) for name in ("a", "b"))
    variables = {**OPENAI, "BIG_MODEL": "openai/no-such-model", "VIRTUAL_KEYS": "true", "BUDGET": "5USD/day"}
    settings = structs.replace(
        load_settings(variables, PROVIDERS, env_file=None),
        sign_in=SignInSettings(secrets=(Secret("s" * 32),), groups=groups),
    )
    (text,) = (text for text in list_texts(find_problems(settings, Catalog(), NOW)) if "in dollars" in text)
    assert text.startswith(
        'The limits of BUDGET, [sign_in.groups."a"] and [sign_in.groups."b"] have a budget in dollars, and '
        "openai/no-such-model has no known price"
    )


def test_web_fetch_without_its_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {**OPENAI, "FETCH_URLS": "true"}
    usual = findings(OPENAI)
    assert findings(environ) == usual
    hidden: Any = None
    monkeypatch.setitem(sys.modules, "lxml", hidden)
    command = "✕ FETCH_URLS needs lxml to read HTML pages, which is not installed:  anthropic-proxy add fetch"
    assert findings(environ) == f"{usual}\n{command}"
    assert findings(OPENAI) == usual
