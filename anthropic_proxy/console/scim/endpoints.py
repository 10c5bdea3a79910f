"""The endpoints below `/scim/v2`."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import msgspec

from anthropic_proxy.console.keys.administration import KeyAdministration
from anthropic_proxy.console.keys.group_tables import GroupTables
from anthropic_proxy.console.keys.key_table import with_database_errors
from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.ledger.reader_threads import ReaderThreads
from anthropic_proxy.console.scim.errors import ScimError, find_no_resource
from anthropic_proxy.console.scim.filters import decode_filter
from anthropic_proxy.console.scim.paths import ALLOWED, BASE_PATH, ENDPOINTS, Kind
from anthropic_proxy.console.scim.resources import (
    Patch,
    Resource,
    decode_resource,
    is_returned,
    list_names,
    project,
    project_parts,
)
from anthropic_proxy.console.scim.schema import (
    MAX_RESULTS,
    build_provider_config,
    build_resource_types,
    build_schemas,
)
from anthropic_proxy.console.scim.store import LINKS, MAX_PAGE_BYTES, ScimStore, Stored
from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.engine.messages.models.raw_json import MAX_MEMBERS, has_too_many_members
from anthropic_proxy.errors import ProxyError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import RouteRequest, RouteResponse

_OVERLOADED = 529
"""Status of Anthropic, which clients of SCIM do not know."""
_UNAVAILABLE = 503
_LIST_SCHEMA = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
_KINDS: Mapping[str, Kind] = {path: kind for kind, path in ENDPOINTS.items()}
_HEADERS = {"content-type": "application/scim+json", "cache-control": "no-store"}
_NOT_IMPLEMENTED = (".search", "Bulk", "Me")
_Names = tuple[frozenset[str], frozenset[str]]
"""Attributes that a request wants and excludes. Empty: all, and none."""
_MAX_HOST_CHARACTERS = 253 + len(":65535")
"""A name of DNS (RFC 1035, section 2.3.4) and a port."""


class Endpoints:
    """`warn` logs why tables of groups are applied later. `clock` returns seconds since the epoch."""

    def __init__(
        self, current_settings: Callable[[], Settings], warn: Callable[[str], None], clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._threads = ReaderThreads()
        self._tables = GroupTables(current_settings, warn)

    async def stop(self) -> None:
        await self._threads.stop()
        await self._tables.stop()

    async def respond(self, request: RouteRequest, settings: Settings) -> RouteResponse:
        try:
            return await self._respond(request, settings)
        except ScimError as error:
            return _send(error.encode(), error.status)

    async def _respond(self, request: RouteRequest, settings: Settings) -> RouteResponse:
        begin = partial(asyncio.get_running_loop().call_soon_threadsafe, self._tables.begin_marked)
        exchange = _Exchange(request, settings, self._clock, begin)
        path = request.path.removeprefix(BASE_PATH)
        name, _, rest = path.removeprefix("/").partition("/")
        kind = _KINDS.get(f"/{name}")
        if name in _NOT_IMPLEMENTED:
            raise ScimError(f"/{name} is not supported.", "", 501)
        if kind is None:
            _require_method(request, "read")
            return _send(exchange.describe_service(name, rest))
        call: Callable[[], RouteResponse]
        if rest == ".search":
            _require_method(request, "search")
            call = partial(exchange.search, kind)
        elif not rest:
            _require_method(request, "")
            call = partial(exchange.list if request.method != "POST" else exchange.create, kind)
        elif "/" in rest:
            raise find_no_resource("The path", path)
        else:
            _require_method(request, "id")
            calls = {"PUT": exchange.change, "PATCH": exchange.change, "DELETE": exchange.delete}
            call = partial(calls.get(request.method, exchange.get), kind, rest)
        response = await self._threads.run(request.client.payer, with_database_errors, call)
        if exchange.has_changed_groups:
            await self._tables.wait()  # it holds none of the threads in which others are deactivated
        return response


class _Exchange:
    """One request. Its methods run in a thread, and wait for the database. `begin` lets tables of groups be applied to
    people, also if the client waits no longer.
    """

    def __init__(
        self,
        request: RouteRequest,
        settings: Settings,
        clock: Callable[[], float],
        begin: Callable[[], object],
    ) -> None:
        self._begin = begin
        self._request = request
        self._settings = settings
        self._clock = clock
        host = request.headers.get("host", "localhost")
        if len(host) > _MAX_HOST_CHARACTERS:  # each member of a group in a response repeats it
            raise ScimError(f"The header Host has {len(host):,} characters; {_MAX_HOST_CHARACTERS} are allowed.")
        site = settings.dashboard_url or f"{request.scheme}://{host}"
        self._base = f"{site}{BASE_PATH}"
        self._query = {name.lower(): values[-1] for name, values in request.query.items()}
        self.has_changed_groups = False
        """See `ScimStore`."""

    def describe_service(self, name: str, rest: str) -> Mapping[str, Any]:
        if name == "ServiceProviderConfig" and not rest:
            return build_provider_config(self._base)
        built = {"Schemas": build_schemas, "ResourceTypes": build_resource_types}.get(name)
        if built is None:
            raise find_no_resource("The path", f"/{name}")
        if "filter" in self._query:
            raise ScimError("These resources have no filter.", "", 403)
        resources = built(self._base)
        if not rest:
            return _list_response(resources, len(resources), 1)
        found = next((resource for resource in resources if resource["id"].lower() == rest.lower()), None)
        if found is None:
            raise find_no_resource(name.removesuffix("s"), rest)
        return found

    def list(self, kind: Kind) -> RouteResponse:
        return self._list(kind, self._query)

    def search(self, kind: Kind) -> RouteResponse:
        """RFC 7644, section 3.4.3."""
        body = self._decode_body()
        if not isinstance(body, dict):
            raise ScimError("The body is no object.", "invalidSyntax")
        given = {str(name).lower(): value for name, value in body.items()}
        joined = {name: ",".join(map(str, value)) for name, value in given.items() if isinstance(value, list)}
        return self._list(kind, {name: str(value) for name, value in {**given, **joined}.items() if value is not None})

    def _list(self, kind: Kind, query: Mapping[str, str]) -> RouteResponse:
        condition = decode_filter(query["filter"], kind) if query.get("filter") else None
        start = max(_read_number(query, "startindex", 1), 1)
        count = min(max(_read_number(query, "count", MAX_RESULTS), 0), MAX_RESULTS)
        names = _list_names(query, kind)
        with closing(open_for_writing(self._settings)) as connection:
            store = self._open_store(connection)
            found, number = store.list(kind, condition, start - 1, count)
            resources, size = list[msgspec.Raw](), 0
            for one in found:
                if size >= MAX_PAGE_BYTES:  # fewer than `count`; the client goes on (RFC 7644, section 3.4.2.4)
                    break
                encoded = msgspec.json.encode(_describe(store, one, names))
                resources.append(msgspec.Raw(encoded))
                size += len(encoded)
        return _send(_list_response(resources, number, start))

    def get(self, kind: Kind, resource_id: str) -> RouteResponse:
        names = _list_names(self._query, kind)
        with closing(open_for_writing(self._settings)) as connection:
            store = self._open_store(connection)
            stored = store.find(kind, _require_text(resource_id))
            if _matches(self._request.headers.get("if-none-match", ""), stored):
                return RouteResponse(status=304, headers={**_HEADERS, "etag": stored.etag})
            return self._send_resource(store, stored, names)

    def create(self, kind: Kind) -> RouteResponse:
        resource = decode_resource(kind, self._decode_body())
        names = _list_names(self._query, kind)

        def create(store: ScimStore) -> RouteResponse:
            with store.changing():
                stored = store.create(kind, resource)
            return self._send_resource(store, stored, names, status=201)

        return self._change(create)

    def change(self, kind: Kind, resource_id: str) -> RouteResponse:
        """PUT and PATCH."""
        is_patch = self._request.method == "PATCH"
        body = self._decode_body()
        given = None if is_patch else decode_resource(kind, body)
        names = _list_names(self._query, kind)

        def change(store: ScimStore) -> RouteResponse:
            with store.changing():
                stored = self._find_for_change(store, kind, resource_id)
                before = store.load(stored)
                if given is None:
                    resource = Patch(kind, before).apply(body)
                else:  # a state that is left out stays as it is
                    state = {"active": before["active"]} if "active" in before and "active" not in given else {}
                    resource = {**given, **state}
                stored = store.replace(stored, resource)
            if is_patch and kind == "Group" and "attributes" not in self._query:
                return RouteResponse(status=204, headers={**_HEADERS, "etag": stored.etag})
            return self._send_resource(store, stored, names)

        return self._change(change)

    def delete(self, kind: Kind, resource_id: str) -> RouteResponse:
        def delete(store: ScimStore) -> RouteResponse:
            with store.changing():
                store.delete(self._find_for_change(store, kind, resource_id))
            return RouteResponse(status=204, headers=_HEADERS)

        return self._change(delete)

    def _find_for_change(self, store: ScimStore, kind: Kind, resource_id: str) -> Stored:
        stored = store.find(kind, _require_text(resource_id))
        expected = self._request.headers.get("if-match", "")
        if expected and not _matches(expected, stored):
            raise ScimError(f"The resource has the version {stored.etag}, and If-Match has {expected[:40]}.", "", 412)
        return stored

    def _change(self, change: Callable[[ScimStore], RouteResponse]) -> RouteResponse:
        with closing(open_for_writing(self._settings)) as connection:
            store = self._open_store(connection)
            response = change(store)
            self.has_changed_groups = store.has_changed_groups
        if self.has_changed_groups:
            self._begin()
        return response

    def _open_store(self, connection: Any) -> ScimStore:
        actor = f"SCIM ({self._request.client.name})"
        administration = KeyAdministration(connection, actor, self._clock, settings=self._settings)
        return ScimStore(connection, administration, self._settings, self._base, self._clock)

    def _send_resource(self, store: ScimStore, stored: Stored, names: _Names, status: int = 200) -> RouteResponse:
        headers = {"etag": stored.etag, "location": store.locate(stored)}
        return _send(_describe(store, stored, names), status, headers)

    def _decode_body(self) -> object:
        if has_too_many_members(self._request.body):  # decoded, each needs up to 250 bytes
            raise ScimError(f"The body has more than {MAX_MEMBERS:,} list elements and object members.", "tooMany")
        try:
            return decode_json(self._request.body, Any)
        except InvalidJson as error:
            raise ScimError(f"The body is not valid: {error}.", "invalidSyntax") from None


def _list_names(query: Mapping[str, str], kind: Kind) -> _Names:
    """Raises `ScimError`, so it is called before a change."""
    return list_names(query.get("attributes", ""), kind), list_names(query.get("excludedattributes", ""), kind)


def _describe(store: ScimStore, stored: Stored, names: _Names) -> Resource:
    """Return the attributes that the request asks for. Members and groups are JSON already."""
    wanted, excluded = names
    name = LINKS[stored.kind]
    links = msgspec.Raw()
    if is_returned(name, wanted, excluded):
        links = store.encode_links(stored, lambda items: project_parts(items, name, wanted, excluded))
    return project(store.encode(stored, links), wanted, excluded)


def _require_method(request: RouteRequest, place: str) -> None:
    method = "GET" if request.method == "HEAD" else request.method
    if method not in ALLOWED[place]:
        raise ScimError(f"{request.method} is not possible here. Use {', '.join(ALLOWED[place])}.", "", 405)


def _require_text(resource_id: str) -> str:
    if "\0" in resource_id or any("\ud800" <= character <= "\udfff" for character in resource_id):
        raise find_no_resource("The resource", "")
    return resource_id


def _read_number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 10):
        raise ScimError(f"{name} is {text[:40]!r}. Use a whole number.")
    return int(text)


def _matches(header: str, stored: Stored) -> bool:
    tags = {tag.strip().removeprefix("W/") for tag in header.split(",")}
    return "*" in tags or stored.etag.removeprefix("W/") in tags


def _list_response(resources: Sequence[Mapping[str, Any] | msgspec.Raw], number: int, start: int) -> Resource:
    return {
        "schemas": [_LIST_SCHEMA],
        "totalResults": number,
        "startIndex": start,
        "itemsPerPage": len(resources),
        "Resources": resources,
    }


def _send(document: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> RouteResponse:
    return RouteResponse(status=status, headers={**_HEADERS, **(headers or {})}, body=msgspec.json.encode(document))


def encode_error(error: ProxyError) -> RouteResponse:
    """A client of SCIM reads only errors in its own form, also those of the server."""
    status = _UNAVAILABLE if error.status == _OVERLOADED else error.status
    further = {} if error.retry_after is None else {"retry-after": str(math.ceil(error.retry_after))}
    if status == 401:  # RFC 7644, section 2
        further["www-authenticate"] = "Bearer"
    return _send(ScimError(error.message, "", status).encode(), status, further)
