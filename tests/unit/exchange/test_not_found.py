"""A provider's 404: it stays one for a model of the client, and becomes a 400 for a wrong setting or address."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.wires.contract import Credential, UpstreamRequest
from anthropic_proxy.gateway.settings import load_settings
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.recorded_texts import Compare

KEY = {"OPENAI_API_KEY": "k" * 20}
BIG = KEY | {"BIG_MODEL": "openai/gpt-9"}
GEMINI = {"GEMINI_API_KEY": "k" * 20}
LOCAL = {"PREFERRED_PROVIDER": "openai", "OPENAI_BASE_URL": "http://127.0.0.1:8000/v1"}
NO_PATH = LOCAL | {"OPENAI_BASE_URL": "http://127.0.0.1:8000", "BIG_MODEL": "openai/qwen3"}
OLLAMA = {"PREFERRED_PROVIDER": "ollama", "BIG_MODEL": "qwen9"}
NO_MODEL = {"message": "The model `gpt-9` does not exist.", "type": "invalid_request_error", "code": "model_not_found"}
GPT_9, NOT_FOUND = {"error": NO_MODEL}, {"detail": "Not Found"}
ANTHROPIC = {"type": "error", "error": {"type": "not_found_error", "message": "model: gpt-9"}}


def google(text: str) -> dict[str, Any]:
    return {"error": {"code": 404, "message": text, "status": "NOT_FOUND"}}


def gone(prefix: str) -> dict[str, Any]:
    row = next(row for row in PROVIDERS if row.prefix == prefix)
    return google(f"models/{row.default_big_model} is not found")


OPUS = "claude-opus-5-5"
MODELS: list[tuple[str, dict[str, str], int, Any]] = [
    # the setting of a model is named; the last of a chain by its own; the default by the variable to set
    *((f"claude-{name}", KEY | setting, 404, GPT_9)
      for name, setting in (("haiku-5-5", {"SMALL_MODEL": "gpt-9"}), ("sonnet-5-5", {"MIDDLE_MODEL": "gpt-9"}),
                            ("opus-5-5", {"MODEL_OPUS": "gpt-9"}), ("fable-5-2", {"MODEL_FABLE": "openai/gpt-9"}))),
    (OPUS, KEY | {"BIG_MODEL": "gpt-8", "FALLBACK_OPUS": "openai/gpt-9"}, 404, GPT_9),
    (OPUS, GEMINI, 404, gone("gemini")),
    (OPUS, {"GROQ_API_KEY": "k" * 20}, 404, gone("groq")),
    (OPUS, OLLAMA, 404, {"error": 'model "qwen9" not found, try pulling it first'}),
    # other statuses about the model
    *((model, BIG, status, {"error": {"message": text}})
      for status, text in ((400, "Model Not Exist"), (400, "gpt-9 is not a valid model ID"),
                           (403, "Project does not have access to model gpt-9"))
      for model in (OPUS, "openai/gpt-9")),
    # a server of the Messages API is explained in the proxy's words
    (OPUS, LOCAL | {"OPENAI_WIRE": "messages", "BIG_MODEL": "openai/gpt-9"}, 404, ANTHROPIC),
    # a model that the client asked for stays a 404, as does any other object that it named
    *((model, KEY | {"BIG_MODEL": "gpt-4.1"}, 404, GPT_9)
      for model in ("openai/gpt-9", "gpt-9", "claude-openai/gpt-9")),
    *((OPUS, KEY | {"BIG_MODEL": "openai/gpt-4.1"}, 404, {"error": {"message": text}})
      for text in ("No such File object: file-abc", "Previous response with id 'resp_1' not found.",
                   "Item 'rs_1' not found.")),
    *((OPUS, GEMINI | {"GEMINI_BASE_URL": "http://127.0.0.1:8000"}, 404, google(text))
      for text in ("Not found: cache content metadata for 123.", "Response with id 'resp_0123456789' not found.")),
]  # fmt: skip
ADDRESSES: list[tuple[str, dict[str, str], int, Any]] = [
    # no model in a 404, or a refused method
    *((model, NO_PATH, 404, answer)
      for answer in (
          NOT_FOUND,
          {"object": "error", "message": "Not Found", "type": "NotFoundError", "code": 404},
          {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}},
          {"message": "Cannot POST /chat/completions", "error": "Not Found", "statusCode": 404},
          {"message": "Route POST:/chat/completions not found", "error": "Not Found"},
          {"message": "no Route matched with those values"},
          {"error": {"message": "Invalid URL (POST /chat/completions)", "type": "invalid_request_error"}},
          {"timestamp": "2026-11-20", "status": 404, "error": "Not Found", "path": "/chat/completions"},
          b"404 page not found\n", b"<html><head><title>404 Not Found</title></head><body>nginx</body></html>", b"")
      for model in (OPUS, "openai/qwen3")),
    *((OPUS, LOCAL | {"OPENAI_BASE_URL": "http://127.0.0.1:3000"}, 405, answer)
      for answer in ({"detail": "Method Not Allowed"}, b"", {"error": "Method not supported"})),
    # the advice fits the usual address of the provider
    *((OPUS, settings, 404, NOT_FOUND)
      for settings in (
          LOCAL, OLLAMA, OLLAMA | {"OLLAMA_API_BASE": "http://127.0.0.1:11434/v1"},
          {"GROQ_API_KEY": "k" * 20, "GROQ_BASE_URL": "http://10.0.0.5/openai"},
          GEMINI | {"GEMINI_BASE_URL": "http://10.0.0.5/google"},
          LOCAL | {"OPENAI_WIRE": "responses", "BIG_MODEL": "openai/gpt-9"})),
]  # fmt: skip


async def ask(
    model: str, given: dict[str, str], status: int, answer: Any, env_file: Path | None = None, *, stream: bool = False
) -> str:
    """Return the client response to a provider response, or to an error inside a stream."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        if request.path.endswith(("/show", "/tags")):
            return FakeResponse(404, b"{}")
        return FakeResponse(
            status, body, headers={"content-type": "text/event-stream" if stream else "application/json"}
        )

    proxy = ProxyHarness(upstream, **given)
    settings = load_settings(given, PROVIDERS, env_file=str(env_file) if env_file else None)
    proxy.services = msgspec.structs.replace(proxy.services, settings=settings)
    sink = await proxy.post(model=model, stream=stream)
    assert sink.error is not None
    assert getattr(sink.error, "body", None) is None
    failed = f" after {sink.receipt.failed_attempts}" if sink.receipt and sink.receipt.failed_attempts else ""
    return f"{sink.error.status} {sink.error.error_type} ({sink.error.code}){failed}\n{sink.error.message}"


@pytest.mark.parametrize("table", [MODELS, ADDRESSES], ids=["models", "addresses"])
async def test_what_is_not_found(table: list[tuple[str, dict[str, str], int, Any]], recorded: Compare) -> None:
    recorded({
        f"{model}, {' '.join(f'{name}={value}' for name, value in given.items())}: {status} {answer}":
            await ask(model, given, status, answer)
        for model, given, status, answer in table
    })  # fmt: skip


async def test_a_line_of_a_file_and_an_error_in_a_stream(tmp_path: Path, recorded: Compare) -> None:
    file = tmp_path / ".env"
    file.write_text("OPENAI_API_KEY=sk-0123456789abcdef\nBIG_MODEL=gpt-9\n")
    events = f"data: {json.dumps({'error': {'message': 'The model gpt-9 does not exist', 'code': 404}})}\n\n"
    recorded({
        "BIG_MODEL in .env": await ask(OPUS, KEY, 404, GPT_9, file),
        "stream": await ask(OPUS, BIG, 200, events.encode(), stream=True),
    })  # fmt: skip
