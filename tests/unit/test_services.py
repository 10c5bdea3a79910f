"""`open_services` starts the services of a proxy from its settings, without a server."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.engine.exchange.in_process import send_request
from anthropic_proxy.engine.ids import new_id
from anthropic_proxy.engine.messages.models.tools import KEPT_ID_PREFIX
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.routing.model_listing import list_models
from anthropic_proxy.gateway.services import Services, open_services
from anthropic_proxy.gateway.settings import CONFIG_FILE, Settings, load_settings
from tests.support.http_server import Server, serving

MODELS = b'{"models":[{"name":"qwen3:4b","model":"qwen3:4b"},{"name":"gemma3:latest","model":"gemma3:latest"}]}'

COMPLETION = {"id": "c", "choices": [{"message": {"role": "assistant", "content": "well"}, "finish_reason": "stop"}]}
CONTENT = [{"type": "output_text", "text": "well", "annotations": []}]
RESPONSE = {
    "id": "r",
    "status": "completed",
    "output": [{"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": CONTENT}],
}


async def list_installed_models(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one `GET /api/tags` of Ollama."""
    request = await reader.readuntil(b"\r\n\r\n")
    assert request.startswith(b"GET /api/tags HTTP/1.1\r\n")
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    writer.write(head % len(MODELS) + MODELS)
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("path", ["", "/v1"])
async def test_models_of_ollama_are_listed_without_a_server(path: str) -> None:
    async with await asyncio.start_server(list_installed_models, "127.0.0.1", 0) as ollama:
        address = f"http://127.0.0.1:{ollama.sockets[0].getsockname()[1]}"
        settings = load_settings({"OLLAMA_API_BASE": address + path}, PROVIDERS, env_file=None)
        services = await open_services(settings)
        listed = [entry.id for entry in list_models(settings, services.catalog) if "ollama" in entry.id]
        await services.close()
    assert listed == ["claude-ollama/qwen3:4b", "claude-ollama/gemma3:latest"]


async def answer(server: Server, writer: asyncio.StreamWriter) -> None:
    """Reply over Chat Completions or Responses. Chat Completions refuses `temperature`."""
    status, reply = "200 OK", RESPONSE if "/responses" in server.heads[-1].splitlines()[0] else COMPLETION
    if b'"temperature"' in server.bodies[-1]:
        status = "400 Bad Request"
        message = "Unsupported parameter: 'temperature' is not supported with this model."
        reply = {"error": {"message": message, "param": "temperature", "code": "unsupported_parameter"}}
    text = json.dumps(reply)
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n"
    writer.write(f"{head}{text}".encode())


async def ask(services: Services, server: Server, model: str, *texts: str, **fields: object) -> list[dict[str, Any]]:
    """Send a conversation of user texts. Return the bodies of the calls."""
    del server.bodies[:]
    messages = [{"role": role, "content": text} for text in texts for role in ("user", "assistant")][:-1]
    body = {"model": model, "max_tokens": 9, "messages": messages, **fields}
    sent = await send_request(services, json.dumps(body).encode(), {"x-claude-code-session-id": "s-1"})
    assert (sent.status, b"".join([piece async for piece in sent.body])[:7]) == (200, b'{"id":"')
    return [json.loads(body) for body in server.bodies]


def load(folder: Path, **paths: str) -> Settings:
    """Return settings with a table for each name, and an address with this path on the server."""
    tables = [f'[providers.{name}]\nbase_url = "{address}"\n' for name, address in paths.items()]
    (folder / CONFIG_FILE).write_text("\n".join(tables))
    return load_settings({}, PROVIDERS, env_file=str(folder / ".env"))


async def test_a_reload_forgets_only_what_changed_providers_have_shown(tmp_path: Path) -> None:
    async with serving(answer) as (server, port):
        address = f"http://127.0.0.1:{port}"
        tables = {"first": f"{address}/v1", "second": f"{address}/v1", "second-b": f"{address}/v1"}
        services = await open_services(load(tmp_path, **tables))
        calls = [len(await ask(services, server, f"{name}/m", "a", temperature=0.5)) for name in tables]
        calls += [len(await ask(services, server, f"{name}/m", "a", temperature=0.5)) for name in tables]
        assert calls == [2, 2, 2, 1, 1, 1]
        changed = {**tables, "second": f"{address}/v2", "third": f"{address}/v1"}
        reloaded = await open_services(load(tmp_path, **changed), previous=services)
        assert [len(await ask(reloaded, server, f"{name}/m", "a", temperature=0.5)) for name in tables] == [1, 2, 1]
        await services.close()
        await reloaded.close()


async def test_a_request_from_before_a_reload_shows_nothing_about_the_new_server(tmp_path: Path) -> None:
    async with serving(answer) as (server, port):
        services = await open_services(load(tmp_path, table=f"http://127.0.0.1:{port}/v1"))
        reloaded = await open_services(load(tmp_path, table=f"http://127.0.0.1:{port}/v2"), previous=services)
        calls = [len(await ask(each, server, "table/m", "a", temperature=0.5)) for each in (services, reloaded)]
        assert calls == [2, 2]
        await services.close()
        await reloaded.close()


async def test_a_reload_keeps_what_belongs_to_calls_of_clients(tmp_path: Path) -> None:
    services = await open_services(load(tmp_path, table="http://127.0.0.1:9/v1"))
    call_id = f"{KEPT_ID_PREFIX}1"
    await services.kept_states.keep(services.store, "key local", {call_id: '["call_1",[[0,"ds","{}","Hm."]]]'})
    reloaded = await open_services(load(tmp_path, table="http://127.0.0.1:9/v2"), previous=services)
    found = await reloaded.kept_states.find(reloaded.store, "key local", [call_id])
    assert [state.call_id for state in found.values()] == ["call_1"]
    await services.close()
    await reloaded.close()


@pytest.mark.parametrize(
    ("provider", "variable", "values"),
    [
        ("bedrock", "AWS_REGION", ("us-east-1", "eu-west-1")),
        ("vertex", "VERTEX_LOCATION", ("us-central1", "europe-west1")),
        ("foundry", "ANTHROPIC_FOUNDRY_RESOURCE", ("one", "other")),
    ],
)
async def test_the_token_scale_of_a_model_is_that_of_its_region_or_resource(
    provider: str, variable: str, values: tuple[str, str]
) -> None:
    first, second = (load_settings({variable: value}, PROVIDERS, env_file=None) for value in values)
    services = await open_services(first)
    for name in (provider, "openai"):
        services.observations.record_token_count(name, "m", "local", 100_000, 110_000)
    reloaded = await open_services(second, previous=services)
    factors = [reloaded.observations.find_token_scale(name, "m", "local").factor for name in (provider, "openai")]
    assert factors == [1.0, 1.1]
    await services.close()
    await reloaded.close()


async def test_a_reload_keeps_the_efforts_of_conversations(tmp_path: Path) -> None:
    async with serving(answer) as (server, port):
        variables = {"OPENAI_API_KEY": "sk-0123456789", "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"}
        variables |= {"OPENAI_WIRE": "responses"}
        env_file = str(tmp_path / ".env")

        async def ask_with_effort(services: Services, effort: str, *texts: str) -> dict[str, Any]:
            thinking = {"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}}
            (call,) = await ask(services, server, "openai/gpt-6-astra", *texts, **thinking)
            return call

        services = await open_services(load_settings(variables, PROVIDERS, env_file=env_file))
        await ask_with_effort(services, "low", "a")
        before = await ask_with_effort(services, "high", "a", "b")
        assert [item["type"] for item in before["input"]] == [*["message"] * 2, "configuration_update", "message"]
        (tmp_path / CONFIG_FILE).write_text('[providers.extra]\nbase_url = "http://127.0.0.1:9/v1"')
        reloaded = await open_services(load_settings(variables, PROVIDERS, env_file=env_file), previous=services)
        after = await ask_with_effort(reloaded, "high", "a", "b", "c")
        assert after["reasoning"] == before["reasoning"]
        assert after["input"][: len(before["input"])] == before["input"]
        await services.close()
        await reloaded.close()


def test_new_ids_differ_and_are_in_the_order_of_time() -> None:
    """A database then adds the ids of requests at one place of its index."""
    before = time.time()
    ids = [new_id("req_") for _ in range(1_000)]
    assert len({*ids}) == len(ids)
    assert {len(one) for one in ids} == {len("req_") + 24}
    assert len(new_id("toolu_px")) == len("toolu_") + 24
    times = [int(one.removeprefix("req_")[:10], 16) / 256 for one in ids]
    assert times == sorted(times)
    assert before - 1 <= times[0] <= times[-1] <= time.time()
