"""Form that changes virtual keys and teams. A change is shown, and made only after the user has confirmed it."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET, Struct, structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.page import Form, OpenedForm
from anthropic_proxy.console.dashboard.permissions import explain_key_denial
from anthropic_proxy.console.dashboard.web import digest
from anthropic_proxy.console.keys.administration import (
    Changes,
    KeyAdministration,
    KeyChange,
    open_administration,
    require_same,
)
from anthropic_proxy.console.keys.descriptions import describe_field_value, describe_unknown_routes
from anthropic_proxy.console.keys.virtual_keys import (
    NONE,
    RULE_NAMES,
    Rules,
    VirtualKey,
    decode_expiry,
    decode_rule_texts,
    encode_rule_texts,
    require_duration,
)
from anthropic_proxy.console.ledger.database import (
    DATABASE_ERRORS,
    classify_database_error,
    describe_database_failure,
    find_database,
)
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Gateway, RouteResponse


async def _show(form: OpenedForm) -> RouteResponse:
    action, target = (form.request.query.get(name, [""])[-1] for name in ("action", "target"))
    sent = {"action": action, "target": target}
    return await _respond(form, await form.site.use_database(form.request, partial(_run, sent=sent, actor="")))


async def _submit(form: OpenedForm, sent: Mapping[str, str]) -> RouteResponse:
    name = form.request.client.name if form.session is None else form.session.client_name
    change = partial(_run, sent=sent, actor=f"dashboard ({name})", is_sent=True)
    return await _respond(form, await form.site.use_database(form.request, change))


async def _respond(form: OpenedForm, found: "KeyForm | str") -> RouteResponse:
    if isinstance(found, str):
        render = form.site.render_error
        return await asyncio.to_thread(render, form.request, form.session, form.form.section, 503, found)
    values = {
        "form": found,
        "problem": found.problem,
        "address": f"{form.request.scheme}://{form.request.headers.get('host', '')}",
        "title": found.title,
        "overlaps": OVERLAPS,
    }
    return await form.respond("key_form.html", values)


def _run(gateway: Gateway, *, sent: Mapping[str, str], actor: str, is_sent: bool = False) -> "KeyForm | str":
    """Runs in a thread. A sentence is returned if the database is not available. `is_sent` False: the form is only
    loaded.
    """
    settings = gateway.settings
    try:
        with open_administration(settings, actor) as administration:
            if is_sent:
                return submit_form(administration, settings, sent)
            return load_form(administration, settings, sent["action"], sent["target"])
    except DATABASE_ERRORS as error:
        reason = describe_database_failure(classify_database_error(error), find_database(settings).describe(), error)
        return f"Nothing was changed. {reason}"


NAME_FIELDS = ("label", "owner", "team")
OVERLAPS = (("0m", "none: it ends at once"), ("1h", "1 hour"), ("24h", "24 hours"), ("7d", "7 days"))
_TITLES = {
    "create": "New key",
    "change": "Change {}",
    "rotate": "Rotate {}",
    "revoke": "Revoke {}",
    "team": "Team {}",
}


class KeyForm(Struct, kw_only=True):
    action: str
    title: str
    target: str = ""
    """Id of the key, or name of the team. "": a new key."""
    key: VirtualKey | None = None
    team_rules: Rules | None = None
    """Present rules of the team. None: the form is about a key."""
    fields: dict[str, str] = {}
    before: str
    """Digest of the present values. If it differs at the confirmation, the change is rejected."""
    preview: Sequence[tuple[str, str]] | None = None
    """Lines of the preview: sign (such as `+`) and text of each changed value. None: no preview."""
    warnings: Sequence[str] = ()
    problem: str = ""
    done: str = ""
    """Sentence about the change that was made. "": no change was made."""
    key_text: str = ""
    """Text of a new or rotated key, which only this page shows. "": no new text."""
    route_names: Sequence[str] = ()


def load_form(administration: KeyAdministration, settings: Settings, action: str, target: str) -> KeyForm:
    """Raises `InvalidRequest` for an unknown action, and `UnknownModel` for an unknown key."""
    if action not in _TITLES:
        raise InvalidRequest(
            f"action: {action[:20]!r} is not allowed; use {', '.join(_TITLES)}.", code="dashboard-parameter"
        )
    names = [route.name for route in settings.routes]
    if action == "create":
        fields = {**dict.fromkeys((*NAME_FIELDS, "expires"), ""), **encode_rule_texts(Rules())}
        return KeyForm(action=action, title=_TITLES[action], fields=fields, before="new", route_names=names)
    if action == "team":
        if not target:
            raise InvalidRequest("target: the value is empty; use the name of a team.", code="dashboard-parameter")
        rules = administration.find_team(target).rules
        fields, title = encode_rule_texts(rules), _TITLES[action].format(target)
        form = KeyForm(action=action, title=title, target=target, fields=fields, before=_digest(rules))
        return structs.replace(form, team_rules=rules, route_names=names)
    key = administration.require_key(target)
    fields = {}
    if action == "change":
        own = {"label": key.label, "owner": key.owner, "team": key.team, "expires": ""}
        fields = {**own, **encode_rule_texts(key.rules)}
    elif action == "rotate":
        fields = {"overlap": OVERLAPS[0][0]}
    title = _TITLES[action].format(key.label)
    return KeyForm(
        action=action, title=title, target=key.id, key=key, fields=fields, before=_digest(key), route_names=names
    )


def submit_form(
    administration: KeyAdministration,
    settings: Settings,
    sent: Mapping[str, str],
    clock: Callable[[], float] = time.time,
) -> KeyForm:
    """Return a sent form with a preview, and make its change if the user has confirmed it. If a value is invalid,
    nothing is changed, and the field `problem` of the returned form describes the error.
    """
    form = load_form(administration, settings, sent.get("action", ""), sent.get("target", ""))
    form.fields = {name: sent.get(name, "").strip() for name in form.fields}
    try:
        changes = _preview(form, administration, clock())
        require_same(form.before, sent.get("before") or None)
        form.preview = [
            (sign, f"{field}: {text}")
            for field, values in changes.items()
            for sign, text in zip("-+", map(describe_field_value, values), strict=True)
            if text != "–"
        ]
        if "routes" in form.fields:
            form.warnings = describe_unknown_routes(_decode_rules(form).get("routes", ()), settings)
        if sent.get("before"):
            now = clock()
            if form.action == "create":
                form.key, form.key_text = administration.create_key(_decode_key(form, now))
                form.done = f"Key {form.key.label} is created."
            elif form.action == "change":
                form.key = administration.change_key(form.target, _decode_change(form, now), form.key)
                form.done = f"Key {form.key.label} is changed."
            elif form.action == "team":
                administration.change_team(form.target, _decode_rules(form), form.team_rules)
                form.done = f"Team {form.target} is changed."
            elif form.action == "rotate":
                seconds = require_duration("overlap", form.fields["overlap"])
                form.key, form.key_text = administration.rotate_key(form.target, seconds, form.key)
                form.done = f"Key {form.key.label} has a new text."
                if seconds:
                    form.done += f" The old one is valid until {formats.long_time(now + seconds)}."
            else:
                form.key = administration.revoke_key(form.target)
                form.done = f"Key {form.key.label} is revoked."
    except InvalidRequest as error:
        form.problem = error.message
    return form


def _preview(form: KeyForm, administration: KeyAdministration, now: float) -> Changes:
    """Return the old and new values. Nothing is stored. Raises `InvalidRequest`."""
    if form.action == "create":
        return administration.preview_new_key(_decode_key(form, now))
    if form.action == "change":
        return administration.preview_key_change(form.target, _decode_change(form, now))
    if form.action == "team":
        return administration.preview_team_change(form.target, _decode_rules(form))
    assert form.key is not None
    hint = form.key.hashes[0].hint if form.key.hashes else ""
    if form.action == "revoke":
        return {"status": (form.key.find_status(now), "revoked")}
    seconds = require_duration("overlap", form.fields["overlap"])
    end = f"valid until {formats.long_time(now + seconds)}" if seconds else "ends at once"
    return {"text": (f"{hint}, {end}", "a new text, shown after the confirmation")}


def _decode_key(form: KeyForm, now: float) -> VirtualKey:
    label, owner, team = (form.fields[name] for name in NAME_FIELDS)
    expires_at = decode_expiry("expires", form.fields["expires"] or "never", now)
    rules = Rules(**_decode_rules(form))
    return VirtualKey(id="", label=label, owner=owner, team=team, expires_at=expires_at, rules=rules)


def _decode_change(form: KeyForm, now: float) -> KeyChange:
    names = {name: form.fields[name] for name in NAME_FIELDS}
    expires = form.fields["expires"]
    expires_at = decode_expiry("expires", expires, now) if expires else UNSET
    return KeyChange(expires_at=expires_at, rules=_decode_rules(form), **names)


def _decode_rules(form: KeyForm) -> dict[str, Any]:
    """Return the rules in `form` as values of all fields of `Rules`. An empty text removes a limit."""
    return decode_rule_texts({name: form.fields[name] or NONE for name in RULE_NAMES})


def _digest(values: Any) -> str:
    return digest(msgspec.json.encode(values).decode())


FORM = Form(section="Keys", page_path="/dashboard/keys", explain_denial=explain_key_denial, show=_show, submit=_submit)
