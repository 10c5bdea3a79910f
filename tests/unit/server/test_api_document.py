"""`/api/openapi.json` describes each path below `/api` and `/admin` that the same server has, and no other."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.plugin_packages import open_plugins
from anthropic_proxy.gateway.server.endpoints import ENDPOINTS
from anthropic_proxy.gateway.settings import load_settings
from tests.support.virtual_keys import running_app, send

ADMIN = "admin-0123456789"
NOT_DESCRIBED = {
    "/admin/openapi.json": "the document itself, for people who manage keys",
    "/api/hello": "of Claude Code",
    "/api/oauth/usage": "of Claude Code",
    "/api/openapi.json": "the document itself",
    "/api/refusals": "for the command doctor",
    "/api/requests/live": "for the command logs",
    "/api/requests/recent": "for the status line and the command logs",
}
"""Path → whose it is: nobody else uses it."""


@pytest.mark.parametrize("settings", [{"VIRTUAL_KEYS": "false"}, {"BUDGET": "5USD/day", "VIRTUAL_KEYS": "false"}, {}])
async def test_the_document_has_each_path_of_the_server(tmp_path: Path, settings: dict[str, str]) -> None:
    own = {"SERVE_DEMO": "true", "VIRTUAL_KEYS": "true", "ADMIN_API_KEY": ADMIN, "XDG_DATA_HOME": str(tmp_path)}
    loaded = load_settings({**own, **settings}, PROVIDERS, env_file=str(tmp_path / ".env"))
    paths = {
        (route.path, method) for plugin in open_plugins(loaded) for route in plugin.routes for method in route.methods
    }
    paths |= {(path, method) for path, methods in ENDPOINTS.items() for method in methods}
    served = {(path, method) for path, method in paths if path.startswith(("/api/", "/admin/")) and method != "HEAD"}
    async with running_app(tmp_path, ADMIN_API_KEY=ADMIN, **settings) as app:
        reply = await send(app, "GET", "/api/openapi.json", x_api_key=ADMIN)
    document: dict[str, Any] = msgspec.json.decode(reply.body)
    described = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    assert described == {(path, method) for path, method in served if path not in NOT_DESCRIBED}
    assert ("/scim/v2/Schemas" in document["info"]["description"]) is loaded.virtual_keys
    schemas = document["components"]["schemas"]
    references = set(str(reply.body).split('"$ref":"#/components/schemas/')[1:])
    assert {text.partition('"')[0] for text in references} <= {*schemas}
