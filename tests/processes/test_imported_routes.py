"""A configuration of claude-code-router that `import` wrote for this proxy, in a running server with fake providers."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import run_command
from tests.support.compatible import picture
from tests.support.fakes.gemini.server import KEY as GEMINI_KEY
from tests.support.fakes.gemini.server import new_gemini
from tests.support.fakes.openai_chat.server import KEY, new_openai
from tests.support.fakes.server import Running, serving
from tests.support.process_checks import MESSAGES, ask
from tests.support.routes import CLAUDE_CODE
from tests.support.server_process import Proxy, reserve_closed_port, running_proxy

HELLO = "Say exactly: x"
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1_024}, "max_tokens": 2_000}
IMAGE = {"messages": [{"role": "user", "content": [picture(), {"type": "text", "text": HELLO}]}]}
LONG = {"system": "word " * 4_000}
HAIKU = {"model": "claude-haiku-5-5"}


@dataclass
class Imported:
    """A proxy with imported settings, and the fake servers behind it by their names."""

    proxy: Proxy
    servers: dict[str, Running]


def router_config(servers: dict[str, Running]) -> dict[str, Any]:
    """Return a `config.json` with all rules, two servers of the user, and Gemini at its own address."""
    models = {"work": ["gpt-4.1", "gpt-4.1-mini", "gpt-5"], "large": ["gpt-4.1", "gpt-4o"]}
    own = [
        {
            "name": name,
            "api_base_url": f"{servers[name].url}/v1/chat/completions",
            "api_key": "$SERVER_KEY",
            "models": names,
            "transformer": {"use": [["maxtoken", {"max_tokens": 16_384}], "enhancetool"]},
        }
        for name, names in models.items()
    ]
    gemini = {
        "name": "gemini",
        "api_base_url": "https://generativelanguage.googleapis.com/v1beta/models/",
        "api_key": "$GEMINI_API_KEY",
        "models": ["gemini-2.5-flash"],
        "transformer": {"use": ["gemini"]},
    }
    router = {
        "default": "work,gpt-4.1",
        "background": "work,gpt-4.1-mini",
        "think": "work,gpt-5",
        "longContext": "large,gpt-4.1",
        "longContextThreshold": 3_000,
        "webSearch": "gemini,gemini-2.5-flash",
        "image": "large,gpt-4o",
    }
    return {"LOG": False, "Providers": [*own, gemini], "Router": router}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Imported]:
    folder: Path = tmp_path_factory.mktemp("imported")
    with serving(new_openai()) as work, serving(new_openai()) as large, serving(new_gemini()) as gemini:
        servers = {"work": work, "large": large, "gemini": gemini}
        (folder / "config.json").write_text(json.dumps(router_config(servers)))
        keys = {"SERVER_KEY": KEY, "GEMINI_API_KEY": GEMINI_KEY}
        no_proxy = {"PORT": reserve_closed_port()}
        done = run_command("import", "config.json", settings={**keys, **no_proxy}, directory=folder)
        assert (done.returncode, done.stderr) == (0, "")
        with running_proxy(folder, {**keys, "GEMINI_BASE_URL": gemini.url}) as proxy:
            yield Imported(proxy, servers)


@pytest.mark.parametrize(
    ("request_fields", "route", "server", "model"),
    [
        pytest.param({}, None, "work", "gpt-4.1", id="default"),
        pytest.param(HAIKU, None, "work", "gpt-4.1-mini", id="background"),
        pytest.param(THINKING, "thinking", "work", "gpt-5", id="think"),
        pytest.param(LONG, "long context", "large", "gpt-4.1", id="long"),
        pytest.param({"tools": [SEARCH]}, "web search", "gemini", "gemini-2.5-flash", id="search"),
        pytest.param(IMAGE, "images", "large", "gpt-4o", id="image"),
        # the order of claude-code-router: image, length, background, search, thinking
        pytest.param({**IMAGE, **LONG, **HAIKU}, "images", "large", "gpt-4o", id="image-before-long"),
        pytest.param({**LONG, **HAIKU}, "long context", "large", "gpt-4.1", id="long-before-background"),
        pytest.param({**HAIKU, **THINKING}, None, "work", "gpt-4.1-mini", id="background-before-think"),
        pytest.param({"tools": [SEARCH], **THINKING}, "web search", "gemini", "gemini-2.5-flash", id="search-first"),
        pytest.param({"model": "work/gpt-4.1-mini", **THINKING}, None, "work", "gpt-4.1-mini", id="selected-model"),
    ],
)
def test_a_request_of_each_kind_goes_to_the_target_of_its_rule(
    imported: Imported, request_fields: dict[str, Any], route: str | None, server: str, model: str
) -> None:
    before = {name: len(running.journal.exchanges) for name, running in imported.servers.items()}
    client = imported.proxy.clients[0] if imported.proxy.clients else imported.proxy.client()
    response = client.post(MESSAGES, json=ask(HELLO, **request_fields), headers=CLAUDE_CODE)
    assert (response.status_code, response.headers.get("x-proxy-route")) == (200, route), response.text
    called = {name: running.journal.exchanges[before[name] :] for name, running in imported.servers.items()}
    assert [name for name, exchanges in called.items() if exchanges] == [server]
    [exchange] = called[server]
    assert model in (exchange.body.get("model"), exchange.path.rpartition("/")[2].partition(":")[0])
