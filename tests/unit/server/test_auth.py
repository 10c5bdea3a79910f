"""Admission of clients, before the body is read."""

from typing import Any

import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import AuthenticationFailed, ClientError, PermissionDenied, RequestTooLarge
from anthropic_proxy.gateway.server.auth import authenticate, decode_headers
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.plugins import Client
from tests.support.messages import exactly

KEYS = {"PROXY_API_KEY": "first-key-123456,second-key-123456"}


async def ask(
    settings: dict[str, str],
    path: str = "/v1/messages",
    peer: str = "127.0.0.1",
    method: str = "POST",
    **headers: str,
) -> Client:
    named = {"host": "localhost:8082", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope: dict[str, Any] = {
        "path": path,
        "method": method,
        "client": (peer, 50_000),
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
    }
    loaded = load_settings(settings, PROVIDERS, env_file=None)
    return await authenticate(scope, decode_headers(scope), loaded, ())


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"x_api_key": "first-key-123456"}, "key 1"),
        ({"authorization": "Bearer second-key-123456"}, "key 2"),
        ({"authorization": "bearer second-key-123456"}, "key 2"),
        ({"authorization": "BEARER   second-key-123456 "}, "key 2"),
        ({"x_api_key": "sk-ant-of-the-client", "authorization": "Bearer first-key-123456"}, "key 1"),
        ({"x_api_key": "second-key-123456", "authorization": "Bearer oauth-of-the-client"}, "key 2"),
    ],
)
async def test_a_key_is_read_from_either_header(headers: dict[str, str], name: str) -> None:
    client = await ask(KEYS, **headers)
    assert client.name == name
    assert not client.credential_forwardable


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x_api_key": ""},
        {"authorization": "Bearer"},
        {"authorization": "Basic first-key-123456"},
        {"x_api_key": "first-key-12345"},
        {"x_api_key": "first-key-123456, second-key-123456"},
        {"authorization": "Bearer first-key-1234567"},
    ],
)
async def test_without_one_of_the_keys_nobody_is_let_in(headers: dict[str, str]) -> None:
    with pytest.raises(AuthenticationFailed):
        await ask(KEYS, **headers)


MONITOR = {"MONITOR_API_KEY": "monitor-key-123456,monitor-key-234567"}
MONITOR_REFUSAL = "A key of MONITOR_API_KEY reads /metrics and /api/ with GET, nothing else."


@pytest.mark.parametrize("settings", [MONITOR, {**KEYS, **MONITOR}, {**MONITOR, "VIRTUAL_KEYS": "true"}])
@pytest.mark.parametrize("path", ["/metrics", "/api/usage", "/api/requests/live", "/api/openapi.json"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_monitor_key_reads_metrics_and_api_from_any_address(
    settings: dict[str, str], path: str, method: str
) -> None:
    client = await ask(settings, path, "203.0.113.9", method, authorization="Bearer monitor-key-234567")
    assert client == Client(name="monitor key 2", role="monitor")


@pytest.mark.parametrize("settings", [MONITOR, {**KEYS, **MONITOR}, {**MONITOR, "VIRTUAL_KEYS": "true"}])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/messages"),
        ("POST", "/v1/messages/count_tokens"),
        ("GET", "/v1/models"),
        ("GET", "/dashboard"),
        ("GET", "/dashboard/login"),
        ("GET", "/admin/keys"),
        ("POST", "/api/requests"),
        ("DELETE", "/metrics"),
        ("GET", "/metrics/"),
        ("GET", "/apis"),
    ],
)
async def test_a_monitor_key_opens_nothing_else(settings: dict[str, str], method: str, path: str) -> None:
    with pytest.raises(PermissionDenied, match=exactly(MONITOR_REFUSAL)):
        await ask(settings, path, "127.0.0.1", method, x_api_key="monitor-key-123456")


async def test_a_monitor_key_changes_nothing_for_others() -> None:
    assert (await ask(MONITOR, x_api_key="sk-ant-of-the-client")).credential_forwardable
    with pytest.raises(PermissionDenied):
        await ask(MONITOR, peer="203.0.113.9", x_api_key="monitor-key-12345")
    with pytest.raises(AuthenticationFailed):
        await ask({**KEYS, **MONITOR}, "/metrics", x_api_key="monitor-key-12345")


@pytest.mark.parametrize(
    "headers",
    [
        {"x_forwarded_for": "203.0.113.9"},
        {"x_forwarded_for": "127.0.0.1, 203.0.113.9"},
        {"x_forwarded_for": "2001:db8::1"},
        {"x_forwarded_for": "203.0.113.9:4711"},
        {"x_forwarded_for": "unknown"},
        {"x_real_ip": "203.0.113.9"},
        {"forwarded": "for=203.0.113.9;proto=https;by=127.0.0.1"},
        {"forwarded": 'by=_x;For="[2001:db8::1]:4711"'},
        {"forwarded": "for=127.0.0.1, for=203.0.113.9"},
        {"forwarded": "for=_hidden"},
    ],
)
async def test_who_comes_from_elsewhere_through_a_proxy_here_needs_a_key(headers: dict[str, str]) -> None:
    with pytest.raises(PermissionDenied, match="PROXY_API_KEY"):
        await ask({}, **headers)
    await ask({}, "/health", **headers)
    await ask({"ALLOW_UNAUTHENTICATED": "true"}, **headers)
    await ask(KEYS, x_api_key="first-key-123456", **headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"x_forwarded_for": "127.0.0.1"},
        {"x_forwarded_for": "::1, 127.0.0.1:5000"},
        {"x_forwarded_for": ""},
        {"forwarded": 'for="[::1]:4711";host=localhost'},
        {"forwarded": "host=example.org;proto=http"},
        {"x_real_ip": "127.0.0.1"},
    ],
)
async def test_who_comes_from_this_machine_through_a_proxy_here_needs_none(headers: dict[str, str]) -> None:
    assert (await ask({}, **headers)).credential_forwardable


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content_encoding": "gzip"}, 415),
        ({"content_encoding": "Identity"}, None),
        ({"content_length": str(33 << 20)}, 413),
        ({"content_length": "9" * 5_000}, 413),
        ({"x_filler": "x" * 70_000}, 431),
    ],
)
async def test_what_is_too_large_or_compressed_is_refused_unread(headers: dict[str, str], status: int | None) -> None:
    if status is None:
        assert await ask({}, **headers)
        return
    with pytest.raises(ClientError) as refused:
        await ask({}, **headers)
    assert refused.value.status == status
    assert isinstance(refused.value, RequestTooLarge) is (status in (413, 431))


OPEN = {"ALLOW_UNAUTHENTICATED": "true", "ALLOWED_HOSTS": "proxy.example"}


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("192.168.1.5:8082", "http://203.0.113.9"),
        ("192.168.1.5:8082", "http://[2001:db8::1]"),
        ("192.168.1.5:8082", "http://192.168.1.5"),
        ("192.168.1.5:8082", "http://192.168.1.5:9000"),
        ("192.168.1.5:8082", "https://192.168.1.5:8082"),
        ("192.168.1.5", "https://192.168.1.5"),
        ("192.168.1.5:8082", "http://evil.example"),
        ("192.168.1.5:8082", "null"),
        ("192.168.1.5:8082", ""),
        ("192.168.1.5:8082", "http://192.168.1.5:8082, http://203.0.113.9"),
        ("localhost:8082", "http://203.0.113.9"),
    ],
)
async def test_an_open_proxy_serves_no_page_of_another_site(host: str, origin: str) -> None:
    with pytest.raises(
        PermissionDenied, match=exactly(f"Requests from the web page {origin!r} are not served without PROXY_API_KEY.")
    ):
        await ask(OPEN, peer="192.168.1.7", host=host, origin=origin)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("192.168.1.5:8082", "http://192.168.1.5:8082"),
        ("192.168.1.5", "http://192.168.1.5:80"),
        ("192.168.1.5:80", "http://192.168.1.5"),
        ("[2001:db8::1]:8082", "http://[2001:DB8::1]:8082"),
        ("192.168.1.5:8082", "http://localhost:3000"),
        ("192.168.1.5:8082", "https://proxy.example"),
    ],
)
async def test_an_open_proxy_serves_its_own_pages_and_those_of_names_that_were_allowed(host: str, origin: str) -> None:
    assert await ask(OPEN, peer="192.168.1.7", host=host, origin=origin)


@pytest.mark.parametrize(
    "fetch_site", ["cross-site", "cross-site, same-origin", "same-origin, cross-site", "Cross-Site", ""]
)
async def test_cross_site_requests_of_a_browser_are_refused(fetch_site: str) -> None:
    with pytest.raises(
        PermissionDenied,
        match=exactly("Requests from a web page of another site are not served without PROXY_API_KEY."),
    ):
        await ask({}, sec_fetch_site=fetch_site)


@pytest.mark.parametrize("fetch_site", ["same-origin", "same-site", "none"])
async def test_what_a_browser_asks_for_this_site_or_its_user_is_served(fetch_site: str) -> None:
    assert await ask({}, sec_fetch_site=fetch_site)
