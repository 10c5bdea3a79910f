"""Sign-in of a device at an application without a socket, with the fake identity provider."""

import re
from typing import Any
from urllib.parse import urlencode

from anthropic_proxy.app import App
from tests.support.fakes.oidc import FakeProvider, ask_provider
from tests.support.sign_in import DEVICE_GRANT, list_sign_in_settings
from tests.support.virtual_keys import Response, send

URL = "http://127.0.0.1:8082"
REDIRECT_URI = f"{URL}/dashboard/oidc/callback"
FORM = "application/x-www-form-urlencoded"


def list_settings(provider: FakeProvider, **changes: str) -> dict[str, str]:
    """`changes`: "" removes a setting."""
    settings = {**list_sign_in_settings(provider), "DASHBOARD_URL": URL, **changes}
    return {name: value for name, value in settings.items() if value}


async def post(app: App, path: str, form: dict[str, str], **headers: str) -> Response:
    return await send(app, "POST", path, urlencode(form).encode(), content_type=FORM, **headers)


async def confirm(app: App) -> tuple[Response, str]:
    """Begin a sign-in of a device. Return the answer to its confirmation, and the device code."""
    begun = (await post(app, "/oauth/device_authorization", {"surface": "claude_code"})).json
    form = {"user_code": begun["user_code"], "action": "confirm"}
    return await post(app, "/device", form, sec_fetch_site="same-origin"), begun["device_code"]


def read_cookies(reply: Response) -> str:
    return reply.headers["set-cookie"].partition(";")[0]


async def sign_in(app: App) -> dict[str, Any]:
    """Sign in a device, and return its tokens."""
    confirmed, code = await confirm(app)
    back = ask_provider(confirmed.headers["location"])
    page = await send(app, "GET", back.removeprefix(URL), cookie=read_cookies(confirmed))
    assert page.status == 200, page.body
    form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text))
    approved = await send(
        app,
        "POST",
        "/device",
        urlencode({**form, "action": "approve"}).encode(),
        content_type=FORM,
        sec_fetch_site="same-origin",
        cookie=read_cookies(page),
    )
    assert approved.status == 200, approved.body
    redeemed = await post(app, "/oauth/token", {"grant_type": DEVICE_GRANT, "device_code": code})
    tokens: dict[str, Any] = redeemed.json
    return tokens


async def refresh(app: App, tokens: dict[str, Any]) -> Response:
    return await post(app, "/oauth/token", {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]})
