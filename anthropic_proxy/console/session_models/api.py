"""The route `/api/session-models`: the own running sessions, and the model that one of them uses from now on."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.console.ledger.reader_threads import ReaderThreads
from anthropic_proxy.console.openapi import (
    ApiQuery,
    Schema,
    build_json_response,
    build_object,
    build_operation,
    build_parameter,
    refer_to,
    require_database_text,
)
from anthropic_proxy.console.session_models.choices import ModelChange, OwnSession, SessionWish
from anthropic_proxy.console.session_models.service import SessionModelService
from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.money import NANO_DOLLARS
from anthropic_proxy.gateway.permissions import SESSION_MODELS_PATH
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.telemetry.log.lines import format_utc_time
from anthropic_proxy.plugins import Gateway, RouteRequest, RouteResponse

_MAX_SESSIONS = 20


class ChoiceBody(Struct, forbid_unknown_fields=True):
    model: str | None
    """None: end the choices."""
    sessions: tuple[str, ...] = ()
    project: str | None = None
    preview: bool = False
    """True: nothing is stored."""
    accept_overflow: bool = False
    """True: also for a conversation that is larger than the window of the model."""


async def respond(request: RouteRequest, gateway: Gateway[Settings], threads: ReaderThreads) -> RouteResponse:
    service = SessionModelService(gateway, threads)
    client, reader = request.client, request.client.payer
    if request.method != "POST":
        query = ApiQuery(request, ("session", "project"))
        session = query.values.get("session", "")
        wish = SessionWish(sessions=(session,) if session else (), project=query.values.get("project"))
        sessions = await service.list_sessions(client, wish, reader)
        return _json({"sessions": [_encode_session(one) for one in sessions]})
    body = _decode(request.body)
    wish = SessionWish(sessions=body.sessions, project=body.project)
    if body.model is None:
        outcome = await service.end(client, wish, reader, is_preview=body.preview)
    elif body.preview:
        outcome = await service.preview(client, wish, body.model, reader)
    else:
        outcome = await service.choose(client, wish, body.model, reader, accepts_overflow=body.accept_overflow)
    encoded = [_encode_change(one) for one in outcome.changes] or [_encode_session(one) for one in outcome.sessions]
    return _json({"sessions": encoded, "stored": outcome.is_stored, "notice": outcome.notice})


def _decode(data: bytes) -> ChoiceBody:
    try:
        body = decode_json(data, ChoiceBody)
    except InvalidJson as error:
        raise InvalidRequest(f"The body is not valid: {error}.", code="session-model") from None
    if len(body.sessions) > _MAX_SESSIONS or not all(body.sessions):
        raise InvalidRequest(
            f"sessions has {len(body.sessions)} ids. Use at most {_MAX_SESSIONS}, none of them empty.",
            code="session-model",
        )
    for name, text in [("sessions", text) for text in body.sessions] + [("project", body.project or "")]:
        require_database_text(name, text)
    return body


def _encode_session(session: OwnSession) -> dict[str, Any]:
    return {
        "session": session.session,
        "name": session.name,
        "project": session.project,
        "last_at": format_utc_time(session.last_at),
        "requested_model": session.requested,
        "model": f"{session.prefix}/{session.model}",
        "tokens": session.tokens,
        "chosen_model": session.chosen or None,
    }


def _encode_change(change: ModelChange) -> dict[str, Any]:
    return {
        **_encode_session(change.session),
        "next_model": change.model,
        "cost": _dollars(change.cost),
        "cost_from_cache": _dollars(change.kept_cost),
        "price_source": change.price_source,
        "window": change.window,
        "fits": change.fits,
        "about_cost": change.describe_cost(),
        "about_window": change.describe_window(),
    }


def _dollars(amount: int | None) -> float | None:
    return None if amount is None else amount / NANO_DOLLARS


def _json(value: Any) -> RouteResponse:
    return build_json_response(msgspec.json.encode(value))


_TEXT: Schema = {"type": "string"}
_AMOUNT: Schema = {"type": ["number", "null"], "description": "US dollars. Null: unknown."}


def build_paths() -> Schema:
    """The paths refer to the schemas of `build_schemas` and to a schema `Error`, which the caller must add to the
    document.
    """
    filters = [
        build_parameter("session", _TEXT, "Id of a session, or its beginning. By default all that run."),
        build_parameter("project", _TEXT, "Only sessions of this project, and those that name none."),
    ]
    errors = {
        "400": "A parameter is invalid, or the conversation does not fit into the window of the model.",
        "401": "The key is missing or wrong.",
        "403": "The rules of the key do not allow the model.",
        "404": "There is no such session, or no such model.",
        "529": "The database cannot be used. Nothing was changed.",
    }
    listed = build_object({"sessions": {"type": "array", "items": refer_to("OwnSession")}}, ["sessions"])
    changed = {
        "sessions": {"type": "array", "items": refer_to("SessionChange")},
        "stored": {"type": "boolean"},
        "notice": {"type": "string", "description": "Sentence about the model. Empty: none."},
    }
    content = {"application/json": build_object(changed, [*changed])}
    return {
        SESSION_MODELS_PATH: {
            "get": build_operation(
                "listOwnSessions", "The own running sessions.", {"application/json": listed}, errors, filters
            ),
            "post": build_operation(
                "chooseModel", "Choose the model of own sessions.", content, errors, body="ModelChoice"
            ),
        }
    }


def build_schemas() -> Mapping[str, Schema]:
    own = {
        **dict.fromkeys(("session", "name", "project", "last_at", "requested_model", "model"), _TEXT),
        "tokens": {"type": "integer", "description": "Tokens of the conversation after the last reply."},
        "chosen_model": {"type": ["string", "null"], "description": "Null: none is chosen."},
    }
    change = {
        **dict.fromkeys(("next_model", "price_source", "about_cost", "about_window"), _TEXT),
        **dict.fromkeys(("cost", "cost_from_cache"), _AMOUNT),
        "window": {"type": ["integer", "null"], "description": "Null: unknown."},
        "fits": {"type": "boolean"},
    }
    choice = {
        "model": {"type": ["string", "null"], "description": "As in a request. Null: end the choices."},
        "sessions": {"type": "array", "items": _TEXT, "maxItems": _MAX_SESSIONS},
        "project": {"type": ["string", "null"]},
        "preview": {"type": "boolean", "description": "True: nothing is stored."},
        "accept_overflow": {"type": "boolean", "description": "True: also if the conversation is too large."},
    }
    about = "A session with what the choice means for it. An ended choice has only the fields of `OwnSession`."
    whole = {"allOf": [refer_to("OwnSession"), build_object(change)], "description": about}
    return {
        "OwnSession": build_object(own, [*own]),
        "SessionChange": whole,
        "ModelChoice": build_object(choice, ["model"]),
    }
