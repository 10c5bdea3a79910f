"""JSON API below `/admin` for virtual keys, teams and the audit log, and its OpenAPI document.

A client with an `ADMIN_API_KEY` manages all keys, and a signed-in person those that its role allows (`rights`). A field
has the same name as in Anthropic's Admin API if that has an equivalent.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, TypeVar, get_args

import msgspec
from msgspec import UNSET, Struct, UnsetType, structs

from anthropic_proxy.console.keys.acceptance import list_key_states
from anthropic_proxy.console.keys.administration import KeyAction, KeyCommand, open_administration
from anthropic_proxy.console.keys.descriptions import encode_audit_entry, encode_key, encode_team
from anthropic_proxy.console.keys.key_table import KeysUnavailable, KeyTable, with_database_errors
from anthropic_proxy.console.keys.limits import Scope, build_key_scope, build_team_scope
from anthropic_proxy.console.keys.queries import (
    Spending,
    add_forecasts,
    list_audit_entries,
    list_keys_by_id,
    list_readable_ids,
    list_readable_teams,
    read_all_spending,
    require_key,
)
from anthropic_proxy.console.keys.rights import Rights, find_client_rights
from anthropic_proxy.console.keys.sign_ins import SignIn, encode_sign_in, has_sign_in, list_sign_ins
from anthropic_proxy.console.keys.virtual_keys import KeyState, KeyStatus, VirtualKey
from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.database import open_for_reading
from anthropic_proxy.console.ledger.reader_threads import ReaderThreads
from anthropic_proxy.console.openapi import (
    MAX_ROWS,
    ApiQuery,
    Schema,
    build_json_response,
    build_object,
    build_openapi,
    build_operation,
    build_parameter,
    refer_to,
    require_database_text,
)
from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.permissions import may
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.key_rules import LIST_FIELDS, PERIODS, Budget
from anthropic_proxy.plugins import Route, RouteRequest, RouteResponse, Store

DEFAULT_ROWS = 20
_PAGE = ("limit", "after_id")
"""Parameters of each list."""
_MAX_IDS = 10_000
"""Maximum number of ids that one query returns to look for keys in a state."""
BodyT = TypeVar("BodyT")


def request_error(text: str) -> InvalidRequest:
    return InvalidRequest(text, code="administration-request")


class RuleFields(Struct, forbid_unknown_fields=True):
    """Body of a request that changes models, limits and budgets of a team. A missing field keeps its value, and null or
    an empty list removes a rule.
    """

    models: tuple[str, ...] | UnsetType = UNSET
    providers: tuple[str, ...] | UnsetType = UNSET
    routes: tuple[str, ...] | UnsetType = UNSET
    requests_per_minute: int | UnsetType | None = UNSET
    tokens_per_minute: int | UnsetType | None = UNSET
    concurrency: int | UnsetType | None = UNSET
    budgets: tuple[Budget, ...] | UnsetType = UNSET

    def list_given(self) -> dict[str, Any]:
        """Return the given values by the names of a `KeyCommand`."""
        return {name: value for name, value in structs.asdict(self).items() if value is not UNSET}


class KeyFields(RuleFields, forbid_unknown_fields=True):
    """Body of a request that creates or changes a virtual key. A field that the body lacks is not changed."""

    name: str | UnsetType = UNSET
    owner: str | UnsetType = UNSET
    team: str | UnsetType = UNSET
    cost_center: str | UnsetType = UNSET
    expires_at: datetime | UnsetType | None = UNSET

    def list_given(self) -> dict[str, Any]:
        """Raises `InvalidRequest` for a time without a time zone."""
        given = super().list_given()
        if "name" in given:
            given["label"] = given.pop("name")
        if isinstance(self.expires_at, datetime):
            if self.expires_at.tzinfo is None:
                raise request_error("expires_at has no time zone. Use a time such as 2026-12-31T00:00:00Z, or null.")
            given["expires_at"] = self.expires_at.timestamp()
        return given


class ChangedFields(KeyFields, forbid_unknown_fields=True):
    """Body of a request that changes a virtual key."""

    exceptions: tuple[str, ...] | UnsetType = UNSET
    """Fields that no table may change. One that is left out gets the value of the table again."""


class RotationFields(Struct, forbid_unknown_fields=True):
    overlap_seconds: float = 0.0


class AdminApi:
    """The routes below `/admin`, with the functions that answer their requests. `current_store` returns the store with
    the used amounts of budgets, or None before the server has started. `table` is read again after each change of a key
    or team, so that this process applies the change at once.
    """

    def __init__(
        self,
        current_settings: Callable[[], Settings],
        current_store: Callable[[], Store | None],
        table: KeyTable,
        clock: Callable[[], float],
    ) -> None:
        self._current_settings = current_settings
        self._current_store = current_store
        self._table = table
        self._clock = clock
        self._threads = ReaderThreads()

    async def stop(self) -> None:
        await self._threads.stop()

    async def _use_database(self, request: RouteRequest, function: Callable[[], BodyT]) -> BodyT:
        """Raises an error if the path has characters that databases reject."""
        for name, value in request.path_parameters.items():
            require_database_text(name, value)
        return await self._threads.run(request.client.payer, with_database_errors, function)

    @property
    def routes(self) -> Sequence[Route]:
        reading: Mapping[str, Callable[[RouteRequest], Any]] = {
            "/admin/sign-ins": self._list_sign_ins,
            "/admin/audit": self._list_audit_entries,
            "/admin/openapi.json": lambda _: build_document(),
        }
        changing: Mapping[str, KeyAction] = {
            "/admin/keys": "create",
            "/admin/keys/{id}": "change",
            "/admin/keys/{id}/rotate": "rotate",
            "/admin/keys/{id}/revoke": "revoke",
            "/admin/keys/{id}/allow": "allow",
            "/admin/sign-ins/{id}/sign-out": "sign-out",
            "/admin/teams/{name}": "team",
        }
        return [
            *(Route(path=path, respond=partial(self._read, respond)) for path, respond in reading.items()),
            Route(path="/admin/keys", respond=self._list_keys),
            Route(path="/admin/keys/{id}", respond=self._show_key),
            Route(path="/admin/teams", respond=self._list_teams),
            *(
                Route(path=path, respond=partial(self._change, action), methods=["POST"])
                for path, action in changing.items()
            ),
        ]

    async def _read(self, respond: Callable[[RouteRequest], Any], request: RouteRequest) -> RouteResponse:
        return _json(await self._use_database(request, lambda: respond(request)))

    async def _change(self, action: KeyAction, request: RouteRequest) -> RouteResponse:
        def change() -> Any:
            settings = self._current_settings()
            actor = f"API ({request.client.name})"
            rights = find_client_rights(request.client, settings)
            with open_administration(settings, actor, self._clock, rights) as administration:
                outcome = administration.execute(_decode_command(action, request))
                state = administration.find_state(outcome.key, settings)
                if not may(rights.role, "manage all keys"):
                    state = state.for_people(settings.limit_contact)
            if action == "team":
                return encode_team(outcome.team)
            if action == "sign-out":
                ended = [encode_sign_in(sign_in) for sign_in in outcome.sign_ins]
                return {"data": ended, "has_more": False, "valid_keys": [key.label for key in outcome.valid_keys]}
            return {**encode_key(outcome.key, state), **({"key": outcome.text} if outcome.text else {})}

        body = await self._use_database(request, change)
        await self._table.refresh()
        return _json(body)

    async def _list_keys(self, request: RouteRequest) -> RouteResponse:
        query = ApiQuery(request, (*_PAGE, "status", "team"))
        status, team, after = (query.values.get(name, "") for name in ("status", "team", "after_id"))
        if status not in ("", *get_args(KeyStatus)):
            raise request_error(f"status is {status[:40]!r}. Use active, inactive, expired, revoked or unreadable.")
        limit = query.read_limit(DEFAULT_ROWS)
        size = limit + 1
        if status and not await self._table.refresh():
            raise KeysUnavailable(self._table.condition)

        def find(reader: Connection, rights: Rights) -> Sequence[Mapping[str, Any]]:
            listed = [key for key in list_keys_by_id(reader, [after]) if rights.reads(key) and team in ("", key.team)]
            if after and not listed:
                raise _unlisted_error(after)
            last, matched = after, list[tuple[VirtualKey, KeyState]]()
            part = size
            while (missing := limit + 1 - len(matched)) > 0:
                ids = list_readable_ids(reader, rights, team=team, after=last, limit=part)
                # a state is no column; keys that the table does not have yet are new
                likely = (key_id for key_id in ids if not status or self._table.find_status(key_id) in (status, None))
                chosen = list(islice(likely, missing))
                by_id = {key.id: key for key in list_keys_by_id(reader, chosen)}
                keys = [by_id[key_id] for key_id in chosen if key_id in by_id]
                states = self._list_states(reader, keys, rights)
                matched += [pair for pair in zip(keys, states, strict=True) if status in ("", pair[1].status)]
                if len(chosen) < missing and len(ids) < part:
                    break
                last = chosen[-1] if len(chosen) == missing else ids[-1]
                part = min(4 * part, _MAX_IDS)
            return [encode_key(*pair) for pair in matched]

        return _json(_encode_rows(await self._use_database(request, lambda: self._query(request, find)), limit))

    async def _show_key(self, request: RouteRequest) -> RouteResponse:
        name = request.path_parameters["id"]

        def read(connection: Connection, rights: Rights) -> tuple[VirtualKey, Mapping[str, Any]]:
            key = require_key(connection, name, rights)
            return key, encode_key(key, *self._list_states(connection, [key], rights))

        key, encoded = await self._use_database(request, lambda: self._query(request, read))
        (spending,) = await self._read_spending(request, [build_key_scope(key)])
        return _json({**encoded, "spending": spending})

    async def _list_teams(self, request: RouteRequest) -> RouteResponse:
        query = ApiQuery(request, _PAGE)
        limit = query.read_limit(DEFAULT_ROWS)
        list_page = partial(list_readable_teams, after=query.values.get("after_id", ""), limit=limit + 1)
        teams = await self._use_database(request, lambda: self._query(request, list_page))
        spending = await self._read_spending(request, [build_team_scope(team) for team in teams])
        rows = [{**encode_team(team), "spending": used} for team, used in zip(teams, spending, strict=True)]
        return _json(_encode_rows(rows, limit, "name"))

    async def _read_spending(
        self, request: RouteRequest, scopes: Sequence[Scope]
    ) -> Sequence[Sequence[Mapping[str, object]]]:
        """Return the used amounts of the budgets of each scope, with forecasts. Raises `StoreUnavailable`."""
        store = self._current_store()
        if store is None or not any(scope.rules.budgets for scope in scopes):
            return [()] * len(scopes)
        now = store.state.find_time(self._clock)
        used = await read_all_spending(store, scopes, now)

        def forecast(connection: Connection, _: Rights) -> Sequence[Sequence[Spending]]:
            return add_forecasts(connection, self._current_settings(), scopes, used, now)

        spending_by_scope = await self._use_database(request, lambda: self._query(request, forecast))
        return [[budget_use.encode() for budget_use in spending] for spending in spending_by_scope]

    def _list_sign_ins(self, request: RouteRequest) -> Any:
        query = ApiQuery(request, _PAGE)
        limit, after = query.read_limit(DEFAULT_ROWS), query.values.get("after_id", "")

        def find(connection: Connection, rights: Rights) -> Sequence[SignIn]:
            if after and not has_sign_in(connection, after, rights.sign_ins_of):
                raise _unlisted_error(after)
            return list_sign_ins(connection, self._clock(), rights.sign_ins_of, after=after, limit=limit + 1)

        return _encode_rows([encode_sign_in(sign_in) for sign_in in self._query(request, find)], limit)

    def _list_audit_entries(self, request: RouteRequest) -> Any:
        query = ApiQuery(request, _PAGE)
        limit = query.read_limit(DEFAULT_ROWS)
        after = query.values.get("after_id", "")
        if after and not (after.isascii() and after.isdecimal() and len(after) < 10):
            raise _unlisted_error(after)
        before = int(after) if after else None
        entries = self._query(request, lambda reader, _: list_audit_entries(reader, before_id=before, limit=limit + 1))
        return _encode_rows([encode_audit_entry(entry) for entry in entries], limit)

    def _list_states(self, connection: Connection, keys: Sequence[VirtualKey], rights: Rights) -> Sequence[KeyState]:
        settings = self._current_settings()
        states = list_key_states(connection, settings, keys, self._clock())
        if may(rights.role, "manage all keys"):
            return states
        return [state.for_people(settings.limit_contact) for state in states]

    def _query(self, request: RouteRequest, query: Callable[[Connection, Rights], BodyT]) -> BodyT:
        settings = self._current_settings()
        with closing(open_for_reading(settings)) as connection:
            return query(connection, find_client_rights(request.client, settings).resolve(connection))


def _decode_command(action: KeyAction, request: RouteRequest) -> KeyCommand:
    """Raises `InvalidRequest`."""
    target = next(iter(request.path_parameters.values()), "")
    fields = dict[str, Any]()
    if action == "team":
        fields = _decode(request, RuleFields).list_given()
    elif action in ("create", "change"):
        fields = _decode(request, KeyFields if action == "create" else ChangedFields).list_given()
    elif action == "rotate" and request.body:
        fields = structs.asdict(_decode(request, RotationFields))
    if action == "create" and "label" not in fields:
        raise request_error("name: Field required. Use a unique label for the key.")
    return KeyCommand(action=action, target=target, fields=fields)


def _decode(request: RouteRequest, kind: type[BodyT]) -> BodyT:
    try:
        return decode_json(request.body, kind)
    except InvalidJson as error:
        raise request_error(f"The body is not valid: {error}. The fields are in /admin/openapi.json.") from None


def _unlisted_error(after: str) -> InvalidRequest:
    return request_error(f"after_id: {after[:40]!r} is not an id of this list.")


def _encode_rows(rows: Sequence[Mapping[str, Any]], limit: int, id_name: str = "id") -> dict[str, Any]:
    """`rows`: those of the page, and one more if the list goes on. `id_name`: field with the position of a row."""
    shown = rows[:limit]
    ends = {"first_id": shown[0][id_name] if shown else None, "last_id": shown[-1][id_name] if shown else None}
    return {"data": shown, "has_more": len(rows) > limit, **ends}


def _json(value: Any) -> RouteResponse:
    return build_json_response(msgspec.json.encode(value))


_TEXT: Schema = {"type": "string"}
_TIME: Schema = {"type": ["string", "null"], "format": "date-time"}
_COUNT: Schema = {"type": ["integer", "null"], "minimum": 1, "description": "Null: no limit."}
_TEXTS: Schema = {"type": "array", "items": _TEXT}


def build_document() -> Schema:
    description = (
        "Virtual keys, teams and the audit log. One of ADMIN_API_KEY manages all keys, and the token of a signed-in "
        "person the own ones, or those of the own teams."
    )
    schemas = {**build_schemas(), "Error": {"type": "object"}}
    return build_openapi("administration", description, build_paths(), schemas)


def build_paths() -> Schema:
    """The paths refer to the schemas of `build_schemas` and to a schema `Error`, which the caller must add to the
    document.
    """
    key = refer_to("VirtualKey")
    revoked = "Revoke a key for ever, or all access of a person by e-mail address or id of the key."
    ended = "End a sign-in by its id, or all of a person by e-mail address or id of the key."
    sign_ins = _list_of(refer_to("SignIn"))
    changes = _list_of(refer_to("Change"))
    rows: Sequence[tuple[str, str, str, Schema, str]] = (
        ("get /admin/keys", "listKeys", "All keys, the newest first.", _list_of(key), ""),
        ("post /admin/keys", "createKey", "Create a key. Its secret is only in this response.", _NEW, "KeyFields"),
        ("get /admin/keys/{id}", "getKey", "One key, by id or label, with its spending.", _SPENDING, ""),
        ("post /admin/keys/{id}", "changeKey", "Change fields of a key.", key, "ChangedFields"),
        ("post /admin/keys/{id}/rotate", "rotateKey", "Give a key a new secret.", _NEW, "RotationFields"),
        ("post /admin/keys/{id}/revoke", "revokeKey", revoked, key, ""),
        ("post /admin/keys/{id}/allow", "allowKey", "Allow a revoked person or service again.", key, ""),
        ("get /admin/sign-ins", "listSignIns", "Devices on which persons are signed in.", sign_ins, ""),
        ("post /admin/sign-ins/{id}/sign-out", "endSignIns", ended, _SIGN_OUT, ""),
        ("get /admin/teams", "listTeams", "Teams with rules and spending.", _list_of(_TEAM_SPENDING), ""),
        ("post /admin/teams/{name}", "changeTeam", "Change the rules of a team.", refer_to("Team"), "Rules"),
        ("get /admin/audit", "listChanges", "Changes, the latest first.", changes, ""),
    )
    lists = dict.fromkeys(("listSignIns", "listTeams", "listChanges"), _PAGING)
    queries: Mapping[str, Sequence[Schema]] = {"listKeys": [*_PAGING, *_KEY_FILTERS], **lists}
    paths: dict[str, Schema] = {}
    for place, name, summary, result, body in rows:
        method, path = place.split()
        words = [word[1:-1] for word in path.split("/") if word.startswith("{")]
        in_path = [{"name": word, "in": "path", "required": True, "schema": _TEXT} for word in words]
        parameters = [*in_path, *queries.get(name, ())]
        paths.setdefault(path, {})[method] = _operation(name, summary, result, parameters, body)
    return paths


def build_schemas() -> Schema:
    unit = {"enum": ["usd", "tokens"]}
    period = {"enum": [*PERIODS]}
    models = {"type": "string", "default": "", "description": "Pattern of models that count. Empty: all models."}
    soft = {"type": "boolean", "default": False, "description": "The budget warns, and refuses nothing."}
    expected = "Amount expected at the end of the period. Null: unknown, because there is too little data."
    forecast = {"type": ["number", "null"], "description": expected}
    about = {"unit": unit, "period": period, "models": models, "soft": soft}
    budget = {"type": "object", "properties": {"amount": {"type": "number"}, **about}}
    budget["required"] = ["amount", "unit", "period"]
    counts = dict.fromkeys(("requests_per_minute", "tokens_per_minute", "concurrency"), _COUNT)
    rules = {**dict.fromkeys(LIST_FIELDS, _TEXTS), **counts, "budgets": {"type": "array", "items": budget}}
    names = {**dict.fromkeys(("name", "owner", "team", "cost_center"), _TEXT), "expires_at": _TIME}
    person = {"type": "string", "description": "Id of the key of the person to whom it belongs. Empty: none."}
    creator = {"type": "string", "description": "E-mail address of the user who created it. Empty: an administrator."}
    creator_status = {"type": "string", "description": "State of a team admin who created it. Empty: unknown."}
    reason = {"type": "string", "description": "Error that requests with the key receive. Empty: it is active."}
    state = {"id": _TEXT, "type": {"const": "api_key"}, "status": {"enum": [*get_args(KeyStatus)]}}
    state |= {"status_reason": reason}
    problem = {"type": "string", "description": "Why its row in the database cannot be read. Empty: it can."}
    times = {"partial_key_hint": _TEXT, "created_at": _TIME, "revoked_at": _TIME}
    times["ended_by"] = {
        "type": "string",
        "description": "scim: the identity provider has revoked it. Empty: somebody.",
    }
    times["source"] = {
        "type": "string",
        "description": "scim: the identity provider has created the person. Empty: somebody, or a sign-in.",
    }
    issuer = {"type": "string", "description": "Identity provider of a person. Empty: it has not signed in."}
    subject = {"type": "string", "description": "Id of a person at the identity provider."}
    whose = {"person": person, "issuer": issuer, "subject": subject}
    whose |= {"creator": creator, "creator_status": creator_status}
    values = _object({"before": {}, "after": {}})
    exception = _object({"field": _TEXT, "by": _TEXT, "at": _TIME})
    exceptions = {"type": "array", "items": exception, "description": "Fields that no table of a group or issuer sets."}
    exception_names = "Fields that no table sets. One that is left out gets the value of the table again."
    change = dict.fromkeys(("actor", "action", "object"), _TEXT)
    overlap = {"type": "number", "default": 0, "description": "Time for which the old secret stays valid."}
    return {
        "Rules": {"type": "object", "properties": rules, "additionalProperties": False},
        "KeyFields": {"type": "object", "properties": {**names, **rules}, "additionalProperties": False},
        "ChangedFields": {
            "type": "object",
            "properties": {**names, **rules, "exceptions": {**_TEXTS, "description": exception_names}},
            "additionalProperties": False,
        },
        "RotationFields": {"type": "object", "properties": {"overlap_seconds": overlap}},
        "VirtualKey": _object(
            {**state, "problem": problem, **names, **whose, **times, "exceptions": exceptions, **rules}
        ),
        "Spending": _object({**about, "amount": {"type": "number"}, "used": {"type": "number"}, "forecast": forecast}),
        "Team": _object({"type": {"const": "team"}, "name": _TEXT, "problem": problem, **rules}),
        "SignIn": _object(
            {
                **dict.fromkeys(("id", "name", "email", "key_id", "device", "address"), _TEXT),
                "type": {"const": "sign_in"},
                "provider_refresh_token": {
                    "type": "boolean",
                    "description": "False: the identity provider cannot be asked whether the person still has access.",
                },
                **dict.fromkeys(("created_at", "refreshed_at", "checked_at", "ends_at"), _TIME),
                "refused_at": _TIME
                | {
                    "description": "Time since which the identity provider refuses each refresh. If this lasts as long "
                    "as an access token, the sign-in ends. null: it does not refuse."
                },
                "refusal": _TEXT | {"description": "Why the identity provider refuses. Empty: it does not."},
            }
        ),
        "Change": _object(
            {"id": {"type": "integer"}, "at": _TIME, **change, "changes": {"additionalProperties": values}}
        ),
    }


def _operation(name: str, summary: str, result: Schema, parameters: Sequence[Schema], body: str) -> Schema:
    errors = {"400": "A field is invalid.", "401": "The key is wrong.", "403": "The role does not include this."}
    errors |= {"404": "There is no such key.", "529": "The database is not available."}
    return build_operation(name, summary, {"application/json": result}, errors, parameters, body=body)


def _list_of(schema: Schema) -> Schema:
    return _object({"data": {"type": "array", "items": schema}, "has_more": {"type": "boolean"}})


def _object(properties: Mapping[str, Any]) -> Schema:
    return build_object(properties, [*properties])


_ROWS = {"type": "integer", "minimum": 1, "maximum": MAX_ROWS, "default": DEFAULT_ROWS}
_PAGING = [
    build_parameter("limit", _ROWS, "Maximum number of rows."),
    build_parameter("after_id", _TEXT, "`last_id` of the previous response."),
]
_KEY_FILTERS = [
    build_parameter("status", {"enum": [*get_args(KeyStatus)]}, "Only keys in this state."),
    build_parameter("team", _TEXT, "Only keys of this team."),
]
_SPENDING_FIELD: Schema = {"properties": {"spending": {"type": "array", "items": refer_to("Spending")}}}
_SPENDING: Schema = {"allOf": [refer_to("VirtualKey"), _SPENDING_FIELD]}
_TEAM_SPENDING: Schema = {"allOf": [refer_to("Team"), _SPENDING_FIELD]}
_SIGN_OUT: Schema = {
    "allOf": [
        _list_of(refer_to("SignIn")),
        {"properties": {"valid_keys": {**_TEXTS, "description": "Labels of keys of the person that stay valid."}}},
    ]
}
_NEW: Schema = {"allOf": [refer_to("VirtualKey"), {"properties": {"key": _TEXT}, "required": ["key"]}]}
