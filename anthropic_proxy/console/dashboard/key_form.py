"""Form that changes virtual keys and teams. A change is shown, and made only after the user has confirmed it."""

import asyncio
import time
from collections.abc import Mapping, Sequence

from msgspec import Struct

from anthropic_proxy.console.dashboard.forms import Form, OpenedForm
from anthropic_proxy.console.dashboard.permissions import find_rights, name_actor
from anthropic_proxy.console.dashboard.web import find_address, render_error
from anthropic_proxy.console.keys.administration import (
    KeyAction,
    KeyAdministration,
    KeyCommand,
    decode_command,
    find_digest,
    open_administration,
)
from anthropic_proxy.console.keys.descriptions import describe_field_value, describe_unknown_routes
from anthropic_proxy.console.keys.rights import HELD_FIELDS, is_of_person
from anthropic_proxy.console.keys.unpriced import find_unpriced
from anthropic_proxy.console.keys.virtual_keys import NONE, RULE_NAMES, VirtualKey, encode_exceptions, encode_rule_texts
from anthropic_proxy.console.ledger.database import (
    DATABASE_ERRORS,
    classify_database_error,
    describe_database_failure,
    find_database,
)
from anthropic_proxy.errors import InvalidRequest, LimitReached
from anthropic_proxy.gateway.permissions import may
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Gateway, RouteResponse


async def respond_key_form(form: OpenedForm, sent: Mapping[str, str] | None) -> RouteResponse:
    request = form.request
    session = form.session
    services = form.services
    actor = name_actor(request, session)
    action = request.query.get("action", [""])[-1]
    target = request.query.get("target", [""])[-1]

    def run(gateway: Gateway[Settings]) -> KeyForm | str:
        """A sentence is returned if the database is not available."""
        settings = gateway.settings
        try:
            rights = find_rights(request, session, settings)
            with open_administration(settings, actor, rights=rights) as administration:
                if sent is not None:
                    return submit_form(administration, settings, sent)
                return load_form(administration, settings, action, target)
        except DATABASE_ERRORS as error:
            place = find_database(settings).describe()
            return f"Nothing was changed. {describe_database_failure(classify_database_error(error), place, error)}"

    result = await services.use_database(request, run)
    if isinstance(result, str):
        frame = services.build_frame(form.form.section, request, session)
        return await asyncio.to_thread(render_error, request, frame, 503, result)
    address = find_address(request, services.gateway.settings)
    values = {
        "form": result,
        "problem": result.problem,
        "address": address,
        "title": result.title,
        "overlaps": OVERLAPS,
    }
    return await form.show("key_form.html", values)


_REMOVABLE = (*RULE_NAMES, "exceptions")
OVERLAPS = (("0m", "none: it ends at once"), ("1h", "1 hour"), ("24h", "24 hours"), ("7d", "7 days"))
_TITLES: Mapping[KeyAction, str] = {
    "create": "New key",
    "change": "Change {}",
    "rotate": "Rotate {}",
    "revoke": "Revoke {}",
    "allow": "Allow {} again",
    "team": "Team {}",
    "sign-out": "End sign-ins of {}",
}


class KeyForm(Struct, kw_only=True):
    action: KeyAction
    title: str
    target: str = ""
    """Id of the key or of the sign-in, e-mail address, or name of the team. "": a new key."""
    key: VirtualKey | None = None
    fields: dict[str, str] = {}
    before: str
    """Digest of the present values. If it differs at the confirmation, the change is rejected."""
    preview: Sequence[tuple[str, str]] | None = None
    """Lines of the preview: sign (such as `+`) and text of each changed value. None: no preview."""
    warnings: Sequence[str] = ()
    notices: Sequence[str] = ()
    """What the change leaves or ends beside its target, and how to change that."""
    problem: str = ""
    done: str = ""
    """Sentence about the change that was made. "": no change was made."""
    key_text: str = ""
    """Secret of a new or rotated key, which only this page shows. "": no new one."""
    route_names: Sequence[str] = ()


def load_form(administration: KeyAdministration, settings: Settings, name: str, target: str) -> KeyForm:
    """Raises `InvalidRequest` for an unknown action, and `UnknownModel` for an unknown key."""
    action = next((action for action in _TITLES if action == name), None)
    if action is None:
        allowed = ", ".join(_TITLES)
        raise InvalidRequest(f"action: {name[:20]!r} is not allowed; use {allowed}.", code="dashboard-parameter")
    names = [route.name for route in settings.routes]
    if action == "team":
        if not target:
            raise InvalidRequest("target: the value is empty; use the name of a team.", code="dashboard-parameter")
        administration.rights.require_all_keys()
        team = administration.find_team(target)
        fields = encode_rule_texts(team.rules)
        title = _TITLES[action].format(target)
        before = find_digest(team)
        return KeyForm(action=action, title=title, target=target, fields=fields, before=before, route_names=names)
    if action == "sign-out":
        outcome = administration.execute(KeyCommand(action=action, target=target), dry_run=True)
        sign_ins = outcome.sign_ins
        key = administration.require_key(sign_ins[0].key_id)
        title = _TITLES[action].format(key.label)
        before = find_digest(sign_ins)
        notices = outcome.notices
        return KeyForm(action=action, title=title, target=target, key=key, before=before, notices=notices)
    key = VirtualKey(id="", label="") if action == "create" else administration.require_key(target)
    fields = {}
    if key.id:
        administration.rights.require_change(key, of_fields=action == "change")
    if action in ("create", "change"):
        is_own = bool(key.person) if key.id else administration.rights.creates_own_keys
        sets_center = may(administration.rights.role, "manage all keys")
        held = [] if is_own else [field for field in HELD_FIELDS if field != "cost_center" or sets_center]
        given = {field: getattr(key, field) for field in held}
        fields = {"label": key.label, **given, "expires": "", **encode_rule_texts(key.rules)}
        if key.id and is_of_person(key):
            fields["exceptions"] = encode_exceptions(key.exceptions)
    elif action == "rotate":
        fields = {"overlap": OVERLAPS[0][0]}
    title = _TITLES[action].format(key.label)
    before = find_digest(key)
    return KeyForm(
        action=action,
        title=title,
        target=key.id,
        key=key if key.id else None,
        fields=fields,
        before=before,
        route_names=names,
    )


def submit_form(administration: KeyAdministration, settings: Settings, sent: Mapping[str, str]) -> KeyForm:
    """Return a sent form with a preview, and make its change if the user has confirmed it. If a value is invalid,
    nothing is changed, and the field `problem` of the returned form describes the error.
    """
    form = load_form(administration, settings, sent.get("action", ""), sent.get("target", ""))
    stored = form.fields
    form.fields = {name: sent.get(name, "").strip() for name in form.fields}
    # an empty limit is none, and an empty expiry changes nothing
    given = {name: text or NONE if name in _REMOVABLE else text for name, text in form.fields.items()}
    if not given.get("expires"):
        given.pop("expires", None)
    if "exceptions" in stored:  # each value that is given becomes an exception
        given = {name: text for name, text in given.items() if form.fields[name] != stored[name]}
    digest = sent.get("before", "")
    try:
        command = decode_command(form.action, form.target, given, time.time(), expected_digest=digest)
        outcome = administration.execute(command, dry_run=True)
        form.notices = outcome.notices
        form.preview = [
            (sign, f"{field}: {text}")
            for field, values in outcome.changes.items()
            for sign, text in zip("-+", map(describe_field_value, values), strict=True)
            if text != "–"
        ]
        changed = ([outcome.key], []) if outcome.key.label else ([], [outcome.team])
        form.warnings = [
            *describe_unknown_routes(command.fields.get("routes", ()), settings),
            *(problem.text for problem in find_unpriced(settings, *changed)),
        ]
        if digest:
            outcome = administration.execute(command)
            form.key = outcome.key if outcome.key.id else None
            form.key_text = outcome.text
            form.done = outcome.sentence
    except (InvalidRequest, LimitReached) as error:
        form.problem = error.message
    return form


FORM = Form(section="Keys", page_path="/dashboard/keys", respond=respond_key_form)
