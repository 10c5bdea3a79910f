"""A stand-in of Azure OpenAI: it checks host, path, API version, credential and deployment, then the request itself.

It accepts both forms of addresses: `/openai/v1` without an API version, and the older paths with one. Sources:
learn.microsoft.com, "Azure OpenAI v1 API"; openai-python, lib/azure.py (read 2026-11-23).
"""

import datetime
import json
import re
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.fakes.faults import Outcome
from tests.support.fakes.openai_chat.failures import ErrorResponse, refuse_breach
from tests.support.fakes.openai_chat.models import MODELS
from tests.support.fakes.openai_chat.server import OpenAI
from tests.support.fakes.openai_responses.server import Responses
from tests.support.fakes.server import ContractViolation, Exchange, RequestLog, new_application

HOST = "mine.openai.azure.com"
OPENAI_RESOURCE = "https://cognitiveservices.azure.com"
API_VERSIONS = {"chat/completions": "2024-10-21", "responses": "2025-04-01-preview"}
_PATH = re.compile(r"/openai/(?:(v1)/|deployments/([^/]+)/)?(chat/completions|responses)")
_NO_ACCESS = (
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
    "active subscription and use a correct regional API endpoint for your resource."
)


@dataclass
class Azure:
    """What the stand-in accepts. Tests change it while it serves."""

    deployments: dict[str, str]
    """Name of a deployment → its model."""
    keys: set[str] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)
    host: str = HOST


class _AtAzure(OpenAI):
    def __init__(self, azure: Azure) -> None:
        super().__init__("")
        self.azure = azure

    def _refuse(
        self, request: web.Request, body: Any, unreadable: ContractViolation | None, exchange: Exchange
    ) -> ErrorResponse | None:
        found = _PATH.fullmatch(request.path)
        if found is None or request.method != "POST" or request.host != self.azure.host:
            exchange.breaches.append(ContractViolation("url", f"{request.method} {request.host}{request.path}"))
            return _refuse(404, "404", "Resource not found")
        v1, deployment, api = found.groups()
        version, is_chat = request.query.get("api-version"), api == "chat/completions"
        is_place_right = deployment is None if v1 else (deployment is not None) == is_chat
        if not is_place_right or version != (None if v1 else API_VERSIONS[api]):
            exchange.breaches.append(ContractViolation("url", request.path_qs))
            return _refuse(404, "404", "Resource not found")
        key, bearer = request.headers.get("api-key"), request.headers.get("authorization", "")
        token = bearer.removeprefix("Bearer ")
        if key is not None and bearer:
            exchange.breaches.append(ContractViolation("credential", "both api-key and authorization"))
        accepted = {*self.azure.tokens, *(self.azure.keys if v1 else ())}
        if key not in self.azure.keys and token not in accepted:
            return _refuse(401, "401", _NO_ACCESS)
        if unreadable is not None:
            exchange.breaches.append(unreadable)
            return refuse_breach(unreadable)
        name = self.azure.deployments.get(deployment or str(body.get("model")))
        if name is None:
            return _refuse(404, "DeploymentNotFound", "The API deployment for this resource does not exist.")
        breaches = list(self.check({**body, "model": name}, MODELS[name]))
        breaches += [ContractViolation("azure", name) for name in ("store", "service_tier") if body.get(name)]
        exchange.breaches.extend(breaches)
        return refuse_breach(breaches[0]) if breaches else None

    async def reply(self, request: web.Request, body: dict[str, Any], exchange: Exchange) -> Outcome:
        found = _PATH.fullmatch(request.path)
        model = self.azure.deployments[(found and found[2]) or body["model"]]
        return await super().reply(request, {**body, "model": model}, exchange)


class _ResponsesAtAzure(_AtAzure, Responses):
    """The order of the classes lets the checks of Azure come first."""


def _refuse(status: int, code: str, message: str) -> ErrorResponse:
    return ErrorResponse(status, json.dumps({"error": {"code": code, "message": message}}).encode())


def new_azure(azure: Azure) -> web.Application:
    chat, responses = _AtAzure(azure), _ResponsesAtAzure(azure)

    async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        return await (responses if request.path.endswith("/responses") else chat).answer(request, raw, journal)

    return new_application(answer, RequestLog())


class ManagedIdentity:
    """The endpoint of a machine in Azure that gives tokens."""

    def __init__(self) -> None:
        self.issued: list[str] = []
        self.resource = "https://ai.azure.com"
        self.seconds = 3600

    async def answer(self, request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        exchange = journal.open(request, dict(request.query))
        if request.headers.get("x-identity-header") != "the-header" or request.query["resource"] != self.resource:
            exchange.status = 400
            return web.json_response({"error": "invalid"}, status=400)
        self.issued.append(f"eyJ0.token-{len(self.issued) + 1}")
        ends_at = int(datetime.datetime.now(datetime.UTC).timestamp()) + self.seconds
        return web.json_response(
            {"access_token": self.issued[-1], "expires_on": str(ends_at), "resource": self.resource}
        )

    @staticmethod
    def variables(url: str) -> dict[str, str]:
        """Variables by which azure-identity finds it."""
        own = {"IDENTITY_ENDPOINT": f"{url}/msi/token", "IDENTITY_HEADER": "the-header"}
        return {"AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential", **own}
