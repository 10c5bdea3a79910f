"""Saved views of the page Requests: named combinations of range, filters, order and columns, in a cookie."""

import base64
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.json_decoding import decode_json
from anthropic_proxy.errors import InvalidRequest

VIEWS_COOKIE = "anthropic_proxy_views"
VIEWS_PATH = "/dashboard/requests"
MAX_NAME_CHARACTERS = 60
_MAX_COOKIE_CHARACTERS = 3_800
"""Maximum number of characters of the cookie value. Browsers store 4,096 bytes for a cookie with its name and
attributes."""
_YEAR_SECONDS = 31_536_000


class SavedView(Struct, frozen=True, array_like=True):
    name: str
    query: str

    @property
    def href(self) -> str:
        return f"{VIEWS_PATH}?{self.query}" if self.query else VIEWS_PATH


EXAMPLES: Sequence[SavedView] = (
    SavedView("Failed", "outcome=error"),
    SavedView("Most expensive", "sort=-cost"),
    SavedView("Slowest", "sort=-total"),
)


def decode_views_cookie(cookie: str) -> list[SavedView]:
    try:
        return decode_json(base64.urlsafe_b64decode(cookie.encode("ascii")), list[SavedView])
    except ValueError:  # also `InvalidJson` and `binascii.Error`
        return []


def encode_views_cookie(views: Sequence[SavedView], *, is_https: bool) -> str:
    """Raises `InvalidRequest` if the views are too long for a cookie."""
    value = base64.urlsafe_b64encode(msgspec.json.encode(views)).decode()
    if len(value) > _MAX_COOKIE_CHARACTERS:
        raise InvalidRequest("name: a browser cannot store more views. Remove one first.")
    secure = "; Secure" if is_https else ""
    age = _YEAR_SECONDS if views else 0
    return f"{VIEWS_COOKIE}={value}; Path=/dashboard; Max-Age={age}; HttpOnly; SameSite=Strict{secure}"


def change_views(views: Sequence[SavedView], form: Mapping[str, str]) -> tuple[list[SavedView], str]:
    """Raises `InvalidRequest` for an invalid name or URL."""
    target = form.get("target", VIEWS_PATH)
    path, _, query = target.partition("?")
    if path != VIEWS_PATH or not target.isprintable() or not target.isascii():
        raise InvalidRequest("target: the page is not the one of the requests. Open /dashboard/requests again.")
    if removed := form.get("remove", ""):
        return [view for view in views if view.name != removed], target
    name = " ".join(form.get("name", "").split())
    if not name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise InvalidRequest(f"name: {name[:20]!r} is not allowed; use 1 to {MAX_NAME_CHARACTERS} characters.")
    kept = [view for view in views if view.name != name]
    return [*kept, SavedView(name, query)], target
