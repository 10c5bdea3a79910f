"""What people of a company read in an error, and what administrators read: the log, the ledger and owners have the
commands and settings that remove the cause; a developer reads the cause, and where to ask for what.
"""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from anthropic_proxy.app import App
from anthropic_proxy.errors import ProxyError, UpstreamError
from anthropic_proxy.gateway.settings.key_rules import Budget, Rules
from tests.support.virtual_keys import Response, running_app, send, store_key
from tests.support.waiting import wait_for_async

ADMIN, CONTACT = "admin-0123456789", "https://go.example.org/claude"
RULES = {
    "models": Rules(models=("claude-*",)),
    "providers": Rules(providers=("openai",)),
    "routes": Rules(routes=("night",)),
    "dollars": Rules(budgets=(Budget(5, "usd", "day"),)),
    "requests": Rules(requests_per_minute=1),
    "tokens": Rules(budgets=(Budget(1, "tokens", "day"),)),
}
REFUSALS = {
    "models": (
        403,
        "The key 'models' does not allow the model 'demo/demo' (demo/demo). Allowed: claude-*.",
        "other models",
    ),
    "providers": (
        403,
        "The key 'providers' does not allow the provider 'demo', to which 'demo/demo' is sent. Allowed: openai.",
        "other providers",
    ),
    "routes": (
        403,
        "The key 'routes' allows only requests of certain routes, and no route matches this one. Allowed: night.",
        "other routes",
    ),
    "dollars": (
        403,
        "The key 'dollars' has a budget in dollars, and the price of openai/mystery-1 is unknown.",
        "the price of this model",
    ),
    "requests": (429, "The key 'requests' has reached its limit of 1 request per minute. Try again in N s.", "more"),
    "tokens": (
        429,
        "The key 'tokens' has used up its budget of 1 tokens per day · resets DAY ·",
        "more",
    ),
}


async def ask(app: App, key: str, model: str = "demo/demo") -> Response:
    asked = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
    return await send(app, "POST", "/v1/messages", asked, x_api_key=key)


def normalize(text: str) -> str:
    return re.sub(r"resets \w+ \d+", "resets DAY", re.sub(r"in \d+ s\.", "in N s.", text))


@pytest.fixture(params=["", CONTACT], ids=["administrator", "contact"])
async def company(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[App, str, dict[str, str]]]:
    keys = {name: store_key(tmp_path, rules, label=name) for name, rules in RULES.items()}
    own = {"LIMIT_CONTACT": request.param} if request.param else {}
    async with running_app(tmp_path, ADMIN_API_KEY=ADMIN, OPENAI_API_KEY="k" * 20, **own) as app:
        yield app, request.param, keys


def demand(wish: str, contact: str) -> str:
    return f"Ask for {wish}: {contact}" if contact else f"Ask an administrator of the proxy for {wish}."


@pytest.mark.parametrize("name", RULES)
async def test_a_developer_reads_the_cause_and_whom_to_ask_and_the_ledger_has_the_command(
    company: tuple[App, str, dict[str, str]], name: str
) -> None:
    app, contact, keys = company
    status, cause, wish = REFUSALS[name]

    async def ask_again() -> Response:
        return await ask(app, keys[name], "openai/mystery-1" if name == "dollars" else "demo/demo")

    refused = await wait_for_async(ask_again, lambda reply: reply.status != 200)
    assert (refused.status, normalize(refused.message)) == (status, f"{cause} {demand(wish, contact)}")

    async def find_stored() -> str:
        found = (await send(app, "GET", "/api/requests", x_api_key=ADMIN)).json["requests"]
        return next((str(one["error"]) for one in found if one["error"]), "")

    stored = normalize(await wait_for_async(find_stored))
    assert stored.startswith(f"{cause} Another " if name != "dollars" else f"{cause} Add a table [prices.")
    assert contact not in stored or not contact


async def test_strangers_and_people_with_a_rejected_key_read_no_commands(tmp_path: Path) -> None:
    key = store_key(tmp_path, Rules(), label="old")
    async with running_app(tmp_path, ADMIN_API_KEY=ADMIN, LIMIT_CONTACT=CONTACT) as app:
        assert (await send(app, "POST", "/admin/keys/old/revoke", x_api_key=ADMIN)).status == 200
        shown = [(await ask(app, text)).message for text in (key, "sk-ap-unknown", "")]
        assert shown == [
            f"The key 'old' is revoked. Ask for another key: {CONTACT}",
            "The key is not a key of this proxy, or it was not copied completely. Ask for a key: " + CONTACT,
            "This proxy requires a key: send yours as the API key (ANTHROPIC_API_KEY) or as Authorization: Bearer "
            f"(ANTHROPIC_AUTH_TOKEN). Ask for a key: {CONTACT}",
        ]
        listed = (await send(app, "GET", "/admin/keys/old", x_api_key=ADMIN)).json
        assert listed["status_reason"] == (
            "The key 'old' is revoked. The administrator of the proxy creates another one:  anthropic-proxy keys "
            "create LABEL"
        )


async def test_a_missing_key_of_the_company_is_named_to_the_owner_only(tmp_path: Path) -> None:
    key = store_key(tmp_path, Rules(), label="ci")
    async with running_app(tmp_path, PROXY_API_KEY="proxy-0123456789", LIMIT_CONTACT=CONTACT) as app:
        messages = [(await ask(app, text, "openai/gpt-4.1")).message for text in ("proxy-0123456789", key)]
    assert messages == [
        "openai has no key: OPENAI_API_KEY is not set. Set it in .env and reload the proxy, or in the environment and "
        "start it again.",
        f"openai has no key: OPENAI_API_KEY is not set. Ask for help: {CONTACT}",
    ]


async def test_the_login_of_a_cloud_is_named_to_the_owner_only(tmp_path: Path) -> None:
    key = store_key(tmp_path, Rules(), label="ci")
    remedy = "Set GOOGLE_APPLICATION_CREDENTIALS, or log in with: gcloud auth application-default login"
    (tmp_path / "google.json").write_text("{}")
    google = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "google.json"), "VERTEX_LOCATION": "global"}
    async with running_app(tmp_path, PROXY_API_KEY="proxy-0123456789", LIMIT_CONTACT=CONTACT, **google) as app:
        owner, member = [
            (await ask(app, text, "vertex_ai/gemini-2.5-pro")).message for text in ("proxy-0123456789", key)
        ]
    assert owner.startswith("vertex_ai has no ")
    assert owner.endswith(f" {remedy}")
    assert member == owner.replace(remedy, f"Ask for help: {CONTACT}")


def test_the_remedy_of_a_provider_error_is_replaced_with_what_leads_to_it() -> None:
    error = UpstreamError("openai: no such model", provider="openai", status=400)
    error.add_advice(" Remedy: ", "set BIG_MODEL=openai/gpt-4.1 in .env")
    assert error.describe_to_people("") == "openai: no such model. Ask an administrator of the proxy for help."
    assert ProxyError("It failed.").describe_to_people(CONTACT) == "It failed."
    assert json.dumps(error.message) == json.dumps("openai: no such model Remedy: set BIG_MODEL=openai/gpt-4.1 in .env")
