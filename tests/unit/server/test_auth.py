"""Admission of clients, before the body is read: `golden_texts/admission`.

An input has the names of `SETTINGS` that are set, the request, the address of the client (`@`, else this machine) and
headers as JSON, in which `x×3` stands for `xxx`.
"""

import asyncio
import json
import re
from typing import Any

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ClientError
from anthropic_proxy.gateway.server.auth import authenticate, decode_headers
from anthropic_proxy.gateway.settings import load_settings
from tests.support.golden_texts import Check

SETTINGS = {
    "none": {},
    "keys": {"PROXY_API_KEY": "first-key-123456,second-key-123456"},
    "monitor": {"MONITOR_API_KEY": "monitor-key-123456,monitor-key-234567"},
    "virtual": {"VIRTUAL_KEYS": "true"},
    "open": {"ALLOW_UNAUTHENTICATED": "true", "ALLOWED_HOSTS": "proxy.example"},
}


def admit(given: str) -> str:
    names, method, path, peer, headers = re.fullmatch(r"(\S+) (\S+) (\S+)(?: @(\S+))?(?: ({.*}))?", given).groups()
    named = {"host": "localhost:8082", **json.loads(headers or "{}")}
    sent = {
        name: re.sub(r"(.)×(\d+)", lambda found: found[1] * int(found[2]), value).encode()
        for name, value in named.items()
    }
    scope: dict[str, Any] = {
        "path": path,
        "method": method,
        "client": (peer or "127.0.0.1", 50_000),
        "headers": [(name.encode(), value) for name, value in sent.items()],
    }
    variables = {name: value for word in names.split("+") for name, value in SETTINGS[word].items()}
    settings = load_settings(variables, PROVIDERS, env_file=None)
    try:
        client = asyncio.run(authenticate(scope, decode_headers(scope), settings, ()))
    except ClientError as error:
        return f"{error.status} {error.error_type}: {error.message}"
    return f"{client.name or 'anyone'} as {client.role}{', own key usable' if client.credential_forwardable else ''}"


def test_golden_admission(golden: Check) -> None:
    golden("admission", admit)


def test_a_public_path_trusts_another_machine_only_if_no_key_is_required() -> None:
    scope = {"path": "/", "method": "GET", "client": ("203.0.113.9", 50_000), "headers": [(b"host", b"127.0.0.1:8082")]}
    trusted = []
    for names in ("open", "open+keys", "open+virtual", "none"):
        variables = {name: value for word in names.split("+") for name, value in SETTINGS[word].items()}
        settings = load_settings(variables, PROVIDERS, env_file=None)
        client = asyncio.run(authenticate(scope, decode_headers(scope), settings, ()))
        trusted += [names] if client.address_trusted else []
    assert trusted == ["open"]
