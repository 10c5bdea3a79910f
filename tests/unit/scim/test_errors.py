"""Errors below /scim/v2 in the form of SCIM, also those that the server finds itself."""

from pathlib import Path

import msgspec
import pytest

from anthropic_proxy.console.scim.plugin import MAX_BODY_BYTES
from tests.support.virtual_keys import running_app, send

TOKEN = "scim-0123456789abcdef0123456789"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "detail"),
    [
        ("DELETE", "/Users", b"", 405, "DELETE is not supported at '/scim/v2/Users'; use GET, HEAD or POST."),
        ("POST", "/Schemas", b"{}", 405, "POST is not supported at '/scim/v2/Schemas'; use GET or HEAD."),
        ("POST", "/Users", b" " * (MAX_BODY_BYTES + 1), 413, "The body is larger than 4,194,304 bytes."),
        ("GET", "/Users/.search", b"", 405, "GET is not supported at '/scim/v2/Users/.search'; use POST."),
        ("POST", "/Bulk", b"{}", 501, "/Bulk is not supported."),
        ("GET", "/Users/none", b"", 404, "User 'none' does not exist."),
    ],
)
async def test_an_error_has_the_form_of_scim(
    tmp_path: Path, method: str, path: str, body: bytes, status: int, detail: str
) -> None:
    async with running_app(tmp_path, SCIM_TOKEN=TOKEN, PROXY_API_KEY="pk-0123456789") as app:
        reply = await send(app, method, f"/scim/v2{path}", body, authorization=f"Bearer {TOKEN}")
        assert reply.status == status
        assert reply.headers["content-type"] == "application/scim+json"
        assert msgspec.json.decode(reply.body) == {
            "schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"],
            "status": str(status),
            "detail": detail,
        }
        assert ("allow" in reply.headers) is (status == 405)
        if status == 405:
            assert set(reply.headers["allow"].split(", ")) <= {"GET", "HEAD", "POST"}
        assert reply.headers["request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ({}, "People and groups need one of SCIM_TOKEN, sent as Authorization: Bearer."),
        ({"authorization": "Bearer wrong"}, "The token is not one of SCIM_TOKEN."),
    ],
    ids=["none", "wrong"],
)
async def test_a_missing_and_a_wrong_token_name_the_setting(
    tmp_path: Path, headers: dict[str, str], detail: str
) -> None:
    async with running_app(tmp_path, SCIM_TOKEN=TOKEN, PROXY_API_KEY="pk-0123456789") as app:
        reply = await send(app, "GET", "/scim/v2/Users", **headers)
    assert (reply.status, msgspec.json.decode(reply.body)["detail"]) == (401, detail)


async def test_a_wrong_token_is_refused_in_the_form_of_scim(tmp_path: Path) -> None:
    async with running_app(tmp_path, SCIM_TOKEN=TOKEN, PROXY_API_KEY="pk-0123456789") as app:
        for headers, status in (({"authorization": "Bearer wrong"}, 401), ({"x_api_key": "pk-0123456789"}, 403)):
            reply = await send(app, "GET", "/scim/v2/Users", **headers)
            assert (reply.status, reply.headers["content-type"]) == (status, "application/scim+json")
            assert msgspec.json.decode(reply.body)["status"] == str(status)
            assert reply.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


async def test_a_search_by_post_finds_users_and_groups(tmp_path: Path) -> None:
    async with running_app(tmp_path, SCIM_TOKEN=TOKEN, PROXY_API_KEY="pk-0123456789") as app:
        for path, name in (("/Users", "userName"), ("/Groups", "displayName")):
            body = msgspec.json.encode({name: "ann@example.org"})
            await send(app, "POST", f"/scim/v2{path}", body, authorization=f"Bearer {TOKEN}")
            search = msgspec.json.encode({"filter": f'{name} eq "ann@example.org"', "attributes": [name]})
            reply = await send(app, "POST", f"/scim/v2{path}/.search", search, authorization=f"Bearer {TOKEN}")
            found = msgspec.json.decode(reply.body)
            assert (reply.status, [row[name] for row in found["Resources"]]) == (200, ["ann@example.org"])
