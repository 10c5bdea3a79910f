"""A provider's 404: it stays one for a model of the client, and becomes a 400 for a wrong setting or address."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.wires.contract import Credential, UpstreamRequest
from anthropic_proxy.gateway.settings import load_settings
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink

LOCAL = {"PREFERRED_PROVIDER": "openai", "OPENAI_BASE_URL": "http://127.0.0.1:8000/v1"}
GPT_9 = {"error": {"message": "The model `gpt-9` does not exist.", "type": "invalid_request_error", "param": None}}
GPT_9["error"]["code"] = "model_not_found"
SET_BIG = "The model openai/gpt-9 is set by BIG_MODEL, environment. Remedy: set BIG_MODEL=openai/<another model>"


async def ask(
    answer: FakeResponse, env_file: Path | None = None, model: str = "claude-opus-5-5", **given: str
) -> RecordingSink:
    """Return the client response to this provider response. Settings are those of the environment and a file."""
    answers = [FakeResponse(answer.status, *answer._chunks, headers=answer.headers) for _ in range(3)]

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        return FakeResponse(404, b"{}") if request.path.endswith(("/show", "/tags")) else answers.pop()

    proxy = ProxyHarness(upstream)
    settings = load_settings(given, PROVIDERS, env_file=str(env_file) if env_file else None)
    proxy = ProxyHarness(upstream, **given)
    proxy.services = msgspec.structs.replace(proxy.services, settings=settings)
    return await proxy.post(model=model)


def refusal(sink: RecordingSink) -> tuple[int, str, str]:
    return sink.error.status, sink.error.error_type, sink.error.message


def answer(content: object, status: int = 404, content_type: str = "application/json") -> FakeResponse:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return FakeResponse(status, body, headers={"content-type": content_type})


async def test_a_model_of_a_setting_is_named_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("OPENAI_API_KEY=sk-0123456789abcdef\nBIG_MODEL=gpt-9\n")
    status, kind, message = refusal(await ask(answer(GPT_9), file, OPENAI_API_KEY="sk-0123456789abcdef"))
    assert (status, kind) == (400, "invalid_request_error")
    assert message == (
        f"openai: The model `gpt-9` does not exist. The model openai/gpt-9 is set by BIG_MODEL, {file} line 2. "
        "Remedy: set BIG_MODEL=openai/<another model>"
    )


@pytest.mark.parametrize(
    ("asked", "setting"),
    [
        ("claude-haiku-5-5", {"SMALL_MODEL": "gpt-9"}),
        ("claude-sonnet-5-5", {"MIDDLE_MODEL": "gpt-9"}),
        ("claude-opus-5-5", {"MODEL_OPUS": "gpt-9"}),
        ("claude-fable-5-2", {"MODEL_FABLE": "openai/gpt-9"}),
    ],
)
async def test_every_setting_of_a_model_is_named(asked: str, setting: dict[str, str]) -> None:
    (variable,) = setting
    status, _, message = refusal(await ask(answer(GPT_9), model=asked, OPENAI_API_KEY="k" * 20, **setting))
    assert (status, message) == (
        400,
        f"openai: The model `gpt-9` does not exist. {SET_BIG.replace('BIG_MODEL', variable)}",
    )


async def test_the_last_of_a_chain_is_named_by_its_own_setting() -> None:
    given = {"BIG_MODEL": "gpt-8", "FALLBACK_OPUS": "openai/gpt-9", "OPENAI_API_KEY": "k" * 20}
    sink = await ask(answer(GPT_9), **given)
    assert refusal(sink)[::2] == (
        400,
        f"openai: The model `gpt-9` does not exist. {SET_BIG.replace('BIG_MODEL', 'FALLBACK_OPUS')}",
    )
    assert sink.receipt.failed_attempts == ["openai 404"]


@pytest.mark.parametrize(
    ("key", "prefix", "successor"),
    [("GEMINI_API_KEY", "gemini", "gemini-3.1-pro-preview"), ("GROQ_API_KEY", "groq", "openai/gpt-oss-120b")],
)
async def test_the_successor_of_a_default_names_the_variable_to_set(key: str, prefix: str, successor: str) -> None:
    row = next(row for row in PROVIDERS if row.prefix == prefix)
    error_answer = {
        "error": {"message": f"models/{row.default_big_model} is not found", "code": 404, "status": "NOT_FOUND"}
    }
    status, _, message = refusal(await ask(answer(error_answer), **{key: "k" * 20}))
    assert status == 400
    assert message.endswith(
        f"models/{row.default_big_model} is not found. "
        f"{prefix}/{successor} replaces the retired default of BIG_MODEL, which is not set. "
        f"Remedy: set BIG_MODEL={prefix}/<another model>"
    )


@pytest.mark.parametrize("asked", ["openai/gpt-9", "gpt-9", "claude-openai/gpt-9"])
async def test_a_model_of_the_client_s_own_stays_a_404(asked: str) -> None:
    given = {"OPENAI_API_KEY": "k" * 20, "BIG_MODEL": "gpt-4.1"}
    assert refusal(await ask(answer(GPT_9), model=asked, **given)) == (
        404,
        "not_found_error",
        "openai: The model `gpt-9` does not exist.",
    )


async def test_what_ollama_has_not_pulled() -> None:
    error_answer = {"error": 'model "qwen9" not found, try pulling it first'}
    sink = await ask(answer(error_answer), PREFERRED_PROVIDER="ollama", BIG_MODEL="qwen9")
    status, _, message = refusal(sink)
    assert sink.error is not None
    assert sink.error.code == "model-not-found"
    assert (status, message) == (
        400,
        "ollama: model 'qwen9' not found. Get it with: ollama pull qwen9. The model ollama/qwen9 is set by BIG_MODEL, "
        "environment. Remedy: set BIG_MODEL=ollama/<another model>",
    )


@pytest.mark.parametrize(
    "error_answer",
    [
        {"detail": "Not Found"},
        {"object": "error", "message": "Not Found", "type": "NotFoundError", "code": 404},
        {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}},
        {"message": "Cannot POST /chat/completions", "error": "Not Found", "statusCode": 404},
        {"message": "Route POST:/chat/completions not found", "error": "Not Found"},
        {"message": "no Route matched with those values"},
        {"error": {"message": "Invalid URL (POST /chat/completions)", "type": "invalid_request_error"}},
        {"timestamp": "2026-11-20", "status": 404, "error": "Not Found", "path": "/chat/completions"},
        b"404 page not found\n",
        b"<html><head><title>404 Not Found</title></head><body>nginx</body></html>",
        b"",
    ],
)
@pytest.mark.parametrize("model", ["claude-opus-5-5", "openai/qwen3"])
async def test_no_model_in_a_404_means_the_address(error_answer: object, model: str) -> None:
    given = {**LOCAL, "OPENAI_BASE_URL": "http://127.0.0.1:8000", "BIG_MODEL": "openai/qwen3"}
    status, kind, message = refusal(await ask(answer(error_answer), model=model, **given))
    assert (status, kind) == (400, "invalid_request_error")
    before, _, after = message.partition(" The address")
    assert before.startswith("openai: nothing is served at http://127.0.0.1:8000/chat/completions: HTTP 404")
    assert after == (
        " is set by OPENAI_BASE_URL, environment. Is /v1 missing? Try OPENAI_BASE_URL=http://127.0.0.1:8000/v1"
    )


@pytest.mark.parametrize(
    "text", ["Not found: cache content metadata for 123.", "Response with id 'resp_0123456789' not found."]
)
async def test_an_object_with_an_id_means_neither_the_address_nor_the_model(text: str) -> None:
    error_answer = {"error": {"code": 404, "message": text, "status": "NOT_FOUND"}}
    given = {"GEMINI_API_KEY": "k" * 20, "GEMINI_BASE_URL": "http://127.0.0.1:8000"}
    assert refusal(await ask(answer(error_answer), **given)) == (404, "not_found_error", f"gemini: {text}")


@pytest.mark.parametrize(
    ("error_answer", "shown"),
    [({"detail": "Method Not Allowed"}, " (Method Not Allowed)"), (b"", ""), ({"error": "Method not supported"},
     " (Method not supported)")],
)  # fmt: skip
async def test_a_refused_method_means_the_address(error_answer: object, shown: str) -> None:
    given = {**LOCAL, "OPENAI_BASE_URL": "http://127.0.0.1:3000"}
    assert refusal(await ask(answer(error_answer, 405), **given)) == (
        400,
        "invalid_request_error",
        f"openai: nothing is served at http://127.0.0.1:3000/chat/completions: HTTP 405{shown}. The address is set by "
        "OPENAI_BASE_URL, environment. Is /v1 missing? Try OPENAI_BASE_URL=http://127.0.0.1:3000/v1",
    )


@pytest.mark.parametrize(
    ("settings", "end"),
    [
        (LOCAL, "http://127.0.0.1:8000/v1/chat/completions: HTTP 404 (Not Found). The address is set by "
                "OPENAI_BASE_URL, environment. Check its path."),
        ({"PREFERRED_PROVIDER": "ollama", "OLLAMA_API_BASE": "http://127.0.0.1:11434/v1"},
         "http://127.0.0.1:11434/v1/api/chat: HTTP 404 (Not Found). The address is set by OLLAMA_API_BASE, "
         "environment. Is /v1 superfluous? Try OLLAMA_API_BASE=http://127.0.0.1:11434"),
        ({"PREFERRED_PROVIDER": "ollama"},
         "http://localhost:11434/api/chat: HTTP 404 (Not Found). This is the default address of Ollama; "
         "OLLAMA_API_BASE sets another."),
        ({"GROQ_API_KEY": "k" * 20, "GROQ_BASE_URL": "http://10.0.0.5/openai"},
         "http://10.0.0.5/openai/chat/completions: HTTP 404 (Not Found). The address is set by GROQ_BASE_URL, "
         "environment. Is /v1 missing? Try GROQ_BASE_URL=http://10.0.0.5/openai/v1"),
        ({"GEMINI_API_KEY": "k" * 20, "GEMINI_BASE_URL": "http://10.0.0.5/google"},
         "http://10.0.0.5/google/models/gemini-2.5-pro-preview-03-25:generateContent: HTTP 404 (Not Found). The "
         "address is set by GEMINI_BASE_URL, environment. Is /v1beta missing? "
         "Try GEMINI_BASE_URL=http://10.0.0.5/google/v1beta"),
    ],
)  # fmt: skip
async def test_the_advice_fits_the_provider_s_usual_address(settings: dict[str, str], end: str) -> None:
    sink = await ask(answer({"detail": "Not Found"}), **settings)
    status, _, message = refusal(sink)
    assert (status, message.partition("served at ")[2]) == (400, end)
    assert sink.error is not None
    assert sink.error.code == "wrong-address"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "Model Not Exist"),
        (400, "gpt-9 is not a valid model ID"),
        (403, "Project does not have access to model gpt-9"),
    ],
)
async def test_other_statuses_about_the_model_name_the_setting_too(status: int, message: str) -> None:
    error_answer = {"error": {"message": message}}
    given = {"OPENAI_API_KEY": "k" * 20, "BIG_MODEL": "openai/gpt-9"}
    sink = await ask(answer(error_answer, status), **given)
    assert refusal(sink)[::2] == (status, f"openai: {message}. {SET_BIG}")
    assert sink.error is not None
    assert sink.error.code == "model-not-found"
    assert refusal(await ask(answer(error_answer, status), model="openai/gpt-9", **given))[2] == f"openai: {message}"


@pytest.mark.parametrize(
    "message",
    ["No such File object: file-abc", "Previous response with id 'resp_1' not found.", "Item 'rs_1' not found."],
)
async def test_what_else_the_client_named_stays_a_404(message: str) -> None:
    given = {"OPENAI_API_KEY": "k" * 20, "BIG_MODEL": "openai/gpt-4.1"}
    assert refusal(await ask(answer({"error": {"message": message}}), **given))[::2] == (404, f"openai: {message}")


async def test_the_advice_of_a_wire_stays() -> None:
    given = {**LOCAL, "OPENAI_WIRE": "responses", "BIG_MODEL": "openai/gpt-9"}
    assert refusal(await ask(answer({"detail": "Not Found"}), **given))[::2] == (
        400,
        "openai: nothing is served at http://127.0.0.1:8000/v1/responses: HTTP 404 (Not Found). The server or the "
        "model has no Responses API: set OPENAI_WIRE=chat. The address is set by OPENAI_BASE_URL, environment. "
        "Check its path.",
    )


async def test_in_a_stream_it_is_the_same() -> None:
    events = f"data: {json.dumps({'error': {'message': 'The model gpt-9 does not exist', 'code': 404}})}\n\n"
    given = {"OPENAI_API_KEY": "k" * 20, "BIG_MODEL": "openai/gpt-9"}
    error_answer = FakeResponse(200, events.encode(), headers={"content-type": "text/event-stream"})

    def upstream(*_: Any) -> FakeResponse:
        return error_answer

    sink = await ProxyHarness(upstream, **given).post(stream=True)
    assert refusal(sink)[::2] == (400, f"openai: The model gpt-9 does not exist. {SET_BIG}")


async def test_a_server_of_the_messages_api_is_explained_in_our_words() -> None:
    error_answer = {"type": "error", "error": {"type": "not_found_error", "message": "model: gpt-9"}}
    sink = await ask(answer(error_answer), **LOCAL, OPENAI_WIRE="messages", BIG_MODEL="openai/gpt-9")
    assert refusal(sink)[::2] == (400, f"openai: model: gpt-9. {SET_BIG}")
    assert getattr(sink.error, "body", b"") is None
