"""`open_services` starts the services of a proxy from its settings, without a server."""

import asyncio

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.routing.model_listing import list_models
from anthropic_proxy.gateway.services import open_services
from anthropic_proxy.gateway.settings import load_settings

MODELS = b'{"models":[{"name":"qwen3:4b","model":"qwen3:4b"},{"name":"gemma3:latest","model":"gemma3:latest"}]}'


async def list_installed_models(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one `GET /api/tags` of Ollama."""
    request = await reader.readuntil(b"\r\n\r\n")
    assert request.startswith(b"GET /api/tags HTTP/1.1\r\n")
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    writer.write(head % len(MODELS) + MODELS)
    await writer.drain()
    writer.close()


async def test_models_of_ollama_are_listed_without_a_server() -> None:
    async with await asyncio.start_server(list_installed_models, "127.0.0.1", 0) as ollama:
        address = f"http://127.0.0.1:{ollama.sockets[0].getsockname()[1]}"
        settings = load_settings({"OLLAMA_API_BASE": address}, PROVIDERS, env_file=None)
        services = await open_services(settings)
        listed = [entry.id for entry in list_models(settings, services.catalog) if "ollama" in entry.id]
        await services.close()
    assert listed == ["claude-ollama/qwen3:4b", "claude-ollama/gemma3:latest"]
