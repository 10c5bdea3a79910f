"""What is proposed in place of a model that its server does not serve: a model that it lists, and that stays."""

import json

import pytest

from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from tests.support.harness import FakeResponse, ProxyHarness

NO_MODEL = {"message": "The model `{}` does not exist or you do not have access to it.", "code": "model_not_found"}


async def ask(model: str, listed: str) -> str:
    """Return the remedy in the error of the first request, for a model that the server does not have. `listed`: the
    models in its list. "": it has none.
    """

    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        if request.path == "/models" and listed:
            return FakeResponse(200, json.dumps({"data": [{"id": name} for name in listed.split()]}).encode())
        error = NO_MODEL | {"message": NO_MODEL["message"].format(model)}
        return FakeResponse(404, json.dumps({"error": error}).encode())

    proxy = ProxyHarness(
        answer,
        OPENAI_API_KEY="sk-test-0123456789",
        OPENAI_WIRE="chat",
        BIG_MODEL=f"openai/{model}",
        SMALL_MODEL="openai/small",
    )
    kept = await proxy.post(model="claude-opus-5-5")
    remedy = kept.error.message.partition("Remedy: ")[2]
    assert proxy.receipts[-1].remedy == remedy
    return remedy


@pytest.mark.parametrize(
    ("model", "listed", "remedy"),
    [
        ("gpt-4.1", "gpt-4.1 gpt-6-luna gpt-6.1-sol", "set BIG_MODEL=openai/gpt-6-luna"),
        ("gpt-4.1", "gpt-4.1-mini gpt-5.2 o3", "set BIG_MODEL=openai/gpt-5.2"),
        ("gpt-4.1", "gpt-5.2 text-embedding-3-large", "set BIG_MODEL=openai/gpt-5.2"),
        (
            "gpt-4.1",
            "house-one house-two",
            "set BIG_MODEL=openai/<another model>, such as house-one or house-two",
        ),
        ("gpt-4.1", "gpt-4.1-mini gpt-4.1-nano", "set BIG_MODEL=openai/<another model>"),
        ("gpt-4.1", "", "set BIG_MODEL=openai/<another model>"),
        ("gpt-9", "gpt-5.2 gpt-5.5", "set BIG_MODEL=openai/<another model>, such as gpt-5.5 or gpt-5.2"),
    ],
)
async def test_only_a_listed_model_that_is_not_retired_is_proposed(model: str, listed: str, remedy: str) -> None:
    assert await ask(model, listed) == remedy
