"""Several compatible servers in `anthropic-proxy.toml`, through a running proxy, each with its own rules."""

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.compatible import ADD, THINK, WEATHER, add, talking, thinking_of, weather
from tests.support.fakes.compatible import KINDS, new_server
from tests.support.fakes.openai_chat.server import KEY
from tests.support.fakes.server import JOURNAL, RequestLog, Running, serving
from tests.support.process_checks import MESSAGES, ask, reload, serve
from tests.support.sdk import text_of
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import wait_for

ASK = "How is the weather in Oslo and Rome?"
TWO_SERVERS = """
#:schema ./anthropic-proxy.schema.json

[providers.vllm]
base_url = "{vllm}/v1"
models = ["Qwen/Qwen3-8B", "qwen3-coder"]

[providers.kimi-gateway]
base_url = "{kimi}/v1"
api_key = {{ file = "kimi.key" }}

[providers.kimi-gateway.dialect]
tool_name_pattern = "[a-zA-Z][a-zA-Z0-9_-]*"
schema_rules = {{ inlines_references = true, allows_type_beside_alternatives = false }}
thinking_tags = []
sends_top_k = false
sends_strict = false

[providers.kimi-gateway.models."kimi-k2.*"]
context_window = 200000
accepts_images = true

[providers.kimi-gateway.models."kimi-k2.*".dialect]
output_limit_field = "max_completion_tokens"
sampling_support = "never"
effort_form = "thinking"
reasoning_mode = "unless_off"
replayed_thinking_field = "reasoning_content"
thinking_replay_scope = "calls"
thinking_retention_field = "keep"
accepts_forced_tool = "not_thinking"
"""
THIRD_SERVER = """
[providers.third]
base_url = "{openai}/v1"
api_key = {{ env = "THIRD_KEY" }}
models = ["gpt-4.1"]
"""


class Backends:
    """Three strict stand-ins with different rules, and the settings files of a proxy."""

    def __init__(self, folder: Path, vllm: Running, kimi: Running, openai: Running) -> None:
        self.folder, self.vllm, self.kimi, self.openai = folder, vllm, kimi, openai
        (folder / "kimi.key").write_text(KINDS["moonshot"].key, encoding="utf-8")
        (folder / ".env").write_text(f"PREFERRED_PROVIDER=vllm\nTHIRD_KEY={KEY}\n", encoding="utf-8")
        self.write(TWO_SERVERS)

    def write(self, text: str) -> None:
        """Write the configuration file as editors do: a new one in place of the old one."""
        fresh = self.folder / "new.toml"
        urls = {"vllm": self.vllm.url, "kimi": self.kimi.url, "openai": self.openai.url}
        fresh.write_text(text.format(**urls), encoding="utf-8")
        os.replace(fresh, self.folder / "anthropic-proxy.toml")


@pytest.fixture
def backends(tmp_path: Path, openai: Running) -> Iterator[Backends]:
    with serving(new_server("local")) as vllm, serving(new_server("moonshot")) as kimi:
        yield Backends(tmp_path, vllm, kimi, openai)


def listed(proxy: Proxy) -> list[str]:
    entries = proxy.client().get("/v1/models?limit=1000").json()["data"]
    return [entry["id"] for entry in entries if "claude-vllm/" in entry["id"] or "claude-third/" in entry["id"]]


def test_two_servers_with_different_rules_and_a_third_after_a_reload(backends: Backends, tmp_path: Path) -> None:
    with running_proxy(tmp_path, {}) as proxy:
        key = KINDS["moonshot"].key
        wait_for(lambda: "Use it:" in proxy.log)
        summary = " ".join(proxy.log.split())
        assert "sonnet, opus … → vllm/Qwen/Qwen3-8B BIG_MODEL, default" in summary
        assert f"kimi-gateway (…{key[-4:]}, anthropic-proxy.toml)" in summary
        with talking(backends.vllm, proxy, "claude-opus-4-8") as talk:
            assert text_of(talk.work("Add 4, 5 and 6", add, stream=True, tools=[ADD])) == "The sum is 15."
            assert {body["model"] for body in talk.bodies} == {"Qwen/Qwen3-8B"}
        with talking(backends.kimi, proxy, "kimi-gateway/kimi-k2.6") as talk:
            reply = talk.work(ASK, weather, stream=True, tools=[WEATHER], thinking=THINK)
            assert (text_of(reply), bool(thinking_of(reply))) == ("Oslo: snow; Rome: sun", True)
            assert "max_completion_tokens" in talk.bodies[0]
        assert listed(proxy) == ["claude-vllm/Qwen/Qwen3-8B", "claude-vllm/qwen3-coder"]
        facts = proxy.client().get("/v1/models/kimi-gateway%2Fkimi-k2.6").json()
        assert facts["max_input_tokens"] == 200_000

        backends.write(TWO_SERVERS + "[providers.third]\nbase_url = '{openai}/v1'\nwire = 'chats'\n")
        line = reload(proxy, "The current settings stay active")
        assert line == (
            '✕ The current settings stay active. providers.third.wire is "chats". Use chat, responses, messages, '
            'gemini or ollama. Set in anthropic-proxy.toml, line 34. Did you mean:  wire = "chat"'
        )
        sent = len(backends.openai.journal.exchanges)
        proxy.client().post(MESSAGES, json=ask("Say exactly: x", model="third/gpt-4.1"))
        assert len(backends.openai.journal.exchanges) == sent

        backends.write(TWO_SERVERS + THIRD_SERVER)
        assert reload(proxy, "Settings reloaded") == "Settings reloaded: providers.third changed."
        with talking(backends.openai, proxy, "third/gpt-4.1") as talk:
            assert text_of(talk.send("Say exactly: third", stream=True)) == "third"
        assert listed(proxy)[-1] == "claude-third/gpt-4.1"

        backends.write(TWO_SERVERS + THIRD_SERVER + "[prices.'third/*']\ninput = 2\noutput = 8\n")
        assert reload(proxy, "Settings reloaded") == "Settings reloaded: prices changed."
        assert key not in proxy.log
        assert KEY not in proxy.log


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("entry", ['{{ file = "gateway.key" }}', "{{ command = {command} }}"])
def test_a_key_that_rotates_fails_no_request(tmp_path: Path, workers: int, entry: str) -> None:
    """The provider accepts the newest key only. Requests come from eight clients while the key changes three times."""
    keys, accepted = [f"sk-rotating-key-number-{number:04}" for number in range(4)], [""]
    statuses: list[int] = []

    async def answer(request: web.Request) -> web.Response:
        valid = request.headers.get("authorization") == f"Bearer {accepted[0]}"
        statuses.append(200 if valid else 401)
        if not valid:
            return web.json_response({"error": {"message": "The token has expired", "code": "expired"}}, status=401)
        message = {"role": "assistant", "content": "well"}
        return web.json_response({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    def rotate(key: str) -> None:
        (tmp_path / "fresh").write_text(key, encoding="utf-8")
        os.replace(tmp_path / "fresh", tmp_path / "gateway.key")
        accepted[0] = key

    application = web.Application()
    application[JOURNAL] = RequestLog()
    application.router.add_post("/v1/chat/completions", answer)
    rotate(keys[0])
    with serving(application) as provider, ThreadPoolExecutor(8) as clients:
        show = [sys.executable, "-c", f"print(open({str(tmp_path / 'gateway.key')!r}).read())"]
        key_reference = entry.format(command=json.dumps(show))
        (tmp_path / "anthropic-proxy.toml").write_text(
            f'[providers.gateway]\nbase_url = "{provider.url}/v1"\nmodels = ["m"]\napi_key = {key_reference}\n',
            encoding="utf-8",
        )
        with running_proxy(tmp_path, {}, serve(workers)) as proxy:

            def send(_: int) -> int:
                return proxy.client().post(MESSAGES, json=ask("Hello", model="gateway/m")).status_code

            for key in keys[1:]:
                assert set(clients.map(send, range(8))) == {200}
                rotate(key)
            assert set(clients.map(send, range(8))) == {200}
            assert statuses.count(401) >= len(keys) - 1
            assert not [key for key in keys if key in proxy.log]


def test_a_command_that_prints_another_rejected_key_each_time_is_asked_once_more(tmp_path: Path) -> None:
    sent: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        sent.append(request.headers["authorization"])
        status = 401 if len(sent) < 5 else 400
        return web.json_response({"error": {"message": "The token has expired", "code": "expired"}}, status=status)

    application = web.Application()
    application[JOURNAL] = RequestLog()
    application.router.add_post("/v1/chat/completions", answer)
    show = json.dumps([sys.executable, "-c", "import time; print(f'sk-rotating-{time.time_ns()}')"])
    with serving(application) as provider:
        (tmp_path / "anthropic-proxy.toml").write_text(
            f'[providers.gateway]\nbase_url = "{provider.url}/v1"\nmodels = ["m"]\napi_key = {{ command = {show} }}\n',
            encoding="utf-8",
        )
        with running_proxy(tmp_path, {}) as proxy:
            replied = proxy.client().post(MESSAGES, json=ask("Hello", model="gateway/m"))
    assert replied.status_code == 424
    assert len(sent) == len(set(sent)) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_a_watched_configuration_file_is_read_when_it_changes(backends: Backends, tmp_path: Path, workers: int) -> None:
    with running_proxy(tmp_path, {}, (*serve(workers), "--watch-config")) as proxy:
        backends.write(TWO_SERVERS + THIRD_SERVER)
        wait_for(lambda: "Settings reloaded: providers.third changed." in proxy.log)
        wait_for(lambda: "claude-third/gpt-4.1" in listed(proxy))
