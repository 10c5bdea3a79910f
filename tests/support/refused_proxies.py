"""Errors with which a provider, or something before it, refuses the proxy, and those of settings with which it cannot
be called; what a client is told that did not sign in: the rows of the table in `engine/exchange/client_errors.py`.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from tests.support.fakes.server import Exchange, Running, serving
from tests.support.scripted_answers import new_scripted_server
from tests.support.server_process import Proxy, running_proxy

ON_THE_WAY = "A proxy or gateway before the provider refuses the request, or the network asks for a log-in."
_PAGE = "content-type=text/html <html><body>Log in to this network</body></html>"


class Refusal(Struct, frozen=True):
    """`answer`: of the provider, for a scripted server. `text`: beginning of the message for the client."""

    answer: str
    status: int
    error_type: str
    text: str
    settings: dict[str, str] = {}
    """Settings beside those that lead to the scripted server."""
    calls: int = 1
    """Calls that the provider gets for each request."""


def refuse(status: int, text: str, code: str = "") -> str:
    return f"{status} {json.dumps({'error': {'message': text, 'code': code}})}"


REFUSALS = {
    "key": Refusal(
        refuse(401, "Incorrect API key provided.", "invalid_api_key"),
        *(424, "invalid_request_error", "openai: Incorrect API key provided. The key comes from OPENAI_API_KEY"),
    ),
    "access": Refusal(refuse(403, "Not in your plan."), 424, "invalid_request_error", "openai: Not in your plan."),
    "region": Refusal(
        refuse(403, "Country, region, or territory not supported", "unsupported_country_region_territory"),
        *(424, "invalid_request_error", "openai: Country, region, or territory not supported"),
    ),
    "credit": Refusal(refuse(402, "Pay the bill."), 402, "billing_error", "openai: Pay the bill."),
    "model": Refusal(
        refuse(404, "The model `gpt-9` does not exist", "model_not_found"),
        *(
            400,
            "policy_blocked",
            "openai: The model `gpt-9` does not exist. The model openai/gpt-9 is set by BIG_MODEL",
        ),
    ),
    "address": Refusal(
        refuse(404, "Not Found"), 424, "invalid_request_error", "openai: nothing is served at http://127.0.0.1"
    ),
    "proxy key": Refusal(
        refuse(407, "Who are you?"), 424, "invalid_request_error", f"openai: Who are you? {ON_THE_WAY}"
    ),
    "too early": Refusal(refuse(425, "Too early."), 424, "invalid_request_error", f"openai: Too early. {ON_THE_WAY}"),
    "legal": Refusal(refuse(451, "Not for you."), 424, "invalid_request_error", "openai: Not for you."),
    "network": Refusal(refuse(511, "Log in."), 424, "invalid_request_error", f"openai: Log in. {ON_THE_WAY}"),
    "page 401": Refusal(
        f"401 {_PAGE}", 424, "invalid_request_error", "openai: the response is a web page (HTTP 401, text/html)"
    ),
    "page 403": Refusal(
        f"403 {_PAGE}", 424, "invalid_request_error", "openai: the response is a web page (HTTP 403, text/html)"
    ),
    "page 200": Refusal(
        f"200 {_PAGE}", 424, "invalid_request_error", "openai: the response is a web page (HTTP 200, text/html)"
    ),
    "page 407": Refusal(
        f"407 {_PAGE}", 424, "invalid_request_error", "openai: the response is a web page (HTTP 407, text/html)"
    ),
    "page 511": Refusal(
        f"511 {_PAGE}", 424, "invalid_request_error", "openai: the response is a web page (HTTP 511, text/html)"
    ),
    "redirect": Refusal(
        "302 location=https://network.example/ Found",
        *(424, "invalid_request_error", "openai: HTTP 302 is a redirect (https://network.example/)"),
    ),
    "method": Refusal(
        refuse(405, "Method Not Allowed"),
        *(424, "invalid_request_error", "openai: nothing is served at http://127.0.0.1"),
    ),
    "misdirected": Refusal(refuse(421, "Not here."), 424, "invalid_request_error", f"openai: Not here. {ON_THE_WAY}"),
    "region 400": Refusal(
        refuse(400, "User location is not supported for the API use."),
        *(424, "invalid_request_error", "openai: User location is not supported for the API use."),
    ),
    "credit 429": Refusal(
        refuse(429, "You exceeded your current quota.", "insufficient_quota"),
        *(402, "billing_error", "openai: You exceeded your current quota."),
    ),
    "event": Refusal(
        '200 events {"type": "error", "code": "invalid_api_key", "message": "Incorrect API key provided."}',
        *(424, "invalid_request_error", "openai: Incorrect API key provided."),
    ),
    "token": Refusal(
        "unreachable",
        *(424, "invalid_request_error", "vertex_ai has no access token: no such file."),
        settings={
            "BIG_MODEL": "vertex_ai/gemini-9",
            "GOOGLE_APPLICATION_CREDENTIALS": "missing.json",
            "VERTEX_PROJECT": "mine",
        },
        calls=0,
    ),
    "place": Refusal(
        "unreachable",
        *(424, "invalid_request_error", "foundry is not set up: ANTHROPIC_FOUNDRY_RESOURCE is not set."),
        settings={"BIG_MODEL": "foundry/claude-opus-4-6", "ANTHROPIC_FOUNDRY_API_KEY": "good"},
        calls=0,
    ),
}


class RefusingProvider(Struct):
    proxy: Proxy
    exchanges: list[Exchange]
    """Calls that the provider has got, also those for lists of models."""

    def count_calls(self) -> int:
        return sum(exchange.path.endswith("/responses") for exchange in self.exchanges)

    def count_requests(self) -> int:
        """Return the number of failed requests of the client."""
        with self.proxy.client() as client:
            metrics = client.get("/metrics").text
        found = re.findall(r'^anthropic_proxy_requests_total{.*outcome="error".*} (\d+)', metrics, re.M)
        return sum(int(number) for number in found)


@contextmanager
def serving_refusals(answer: str) -> Iterator[tuple[Running, dict[str, str]]]:
    """Run a provider with the Responses API that refuses each request, and yield it with the settings of its proxy."""
    script = [{"if": "@/models", "then": '200 {"object": "list", "data": []}'}, {"if": "always", "then": answer}]
    with serving(new_scripted_server(script)) as provider:
        yield (
            provider,
            {
                "PREFERRED_PROVIDER": "openai",
                "OPENAI_API_KEY": "sk-good",
                "OPENAI_BASE_URL": f"{provider.url}/v1",
                "OPENAI_WIRE": "responses",
            },
        )


@contextmanager
def refusing(name: str, folder: Path) -> Iterator[RefusingProvider]:
    """Run a proxy in front of a provider that refuses each request of `REFUSALS[name]`."""
    with serving_refusals(REFUSALS[name].answer) as (provider, settings):
        models = {"BIG_MODEL": "openai/gpt-9", "SMALL_MODEL": "openai/gpt-9"}
        with running_proxy(folder, settings | models | REFUSALS[name].settings) as proxy:
            yield RefusingProvider(proxy, provider.journal.exchanges)
