"""Command `use`: the own running sessions get another model with their next request."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

from anthropic_proxy.cli.code import find_project
from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.local_proxy import find_any_proxy, follow_session, require_proxy
from anthropic_proxy.cli.output import Column, Output
from anthropic_proxy.cli.proxy_client import request_json
from anthropic_proxy.cli.questions import open_questions
from anthropic_proxy.cli.remote_proxy import find_remote_proxy
from anthropic_proxy.console import formats
from anthropic_proxy.errors import ConfigurationError, ProxyError
from anthropic_proxy.gateway.permissions import SESSION_MODELS_PATH
from anthropic_proxy.gateway.settings import copy_environment
from anthropic_proxy.gateway.settings.values import LOCAL_HOSTS, is_safe_address
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable

DEFAULT = "default"
"""Name in place of a model that ends the choice."""


class _Session(Struct):
    session: str
    name: str
    model: str
    tokens: int
    last_at: datetime
    requested_model: str
    chosen_model: str | None = None
    next_model: str = ""
    fits: bool = True
    about_cost: str = ""
    about_window: str = ""


class _Reply(Struct):
    sessions: list[_Session]
    notice: str = ""


_Call = Callable[[str, str, Any], Any]
"""Function that sends method, path and body to the proxy, and returns the JSON of its reply."""


def use(
    model: str = "",
    /,
    *,
    session: Sequence[str] = (),
    all_projects: bool = False,
    reset: bool = False,
    dry_run: bool = False,
    yes: bool = False,
    as_json: bool = False,
) -> None:
    """Parameters
    ----------
    model
        Model as in a request, such as openai/gpt-5.5 or haiku. `default` ends the choice. Without it, the running
        sessions are listed.
    session
        Only the session with this id, or with an id that begins so. The option may be repeated.
    all_projects
        All own running sessions. Without it, those of the project of the current directory.
    reset
        End the choice, as `default` does.
    dry_run
        Show what the model means for each session, and change nothing.
    yes
        Ask nothing, and accept a model whose window is smaller than a conversation.
    as_json
        Print the sessions as one JSON object.
    """
    if reset and model not in ("", DEFAULT):
        raise ConfigurationError(f"--reset ends the choice, so it takes no model: {model}.", code="command-line")
    call = _find_proxy()
    project = None if all_projects or session else find_project(copy_environment(), Path.cwd()) or None
    if not (model or reset):
        _list(call, session, project, as_json=as_json)
        return
    chosen = None if reset or model == DEFAULT else model
    body: dict[str, Any] = {"model": chosen, "sessions": [*session], "project": project}
    output = Output()
    if chosen is None:
        _end(call, body, output, dry_run=dry_run, as_json=as_json)
        return
    preview = call("POST", SESSION_MODELS_PATH, {**body, "preview": True})
    shown = msgspec.convert(preview, _Reply)
    if dry_run and as_json:
        output.write_json(preview)
        return
    if not as_json:
        _show(output, shown)
    fits = all(one.fits for one in shown.sessions)
    if dry_run:
        output.write_notice("Nothing is changed.")
        return
    if not yes and sys.stdin.isatty() and output.is_terminal:
        if not open_questions(output).confirm("Use it?" if fits else "Use it nevertheless?", default=fits):
            output.write_notice("Nothing is changed.")
            return
    elif not (yes or fits):
        raise ConfigurationError(
            "Nothing is changed, because a conversation does not fit. To use the model nevertheless, add --yes.",
            code="session-model",
        )
    stored = call("POST", SESSION_MODELS_PATH, {**body, "accept_overflow": True})
    if as_json:
        output.write_json(stored)
        return
    count = len(shown.sessions)
    words = "session uses" if count == 1 else "sessions use"
    again = "".join(f" --session {text}" for text in session) or (" --all-projects" if all_projects else "")
    output.write_notice(
        f"{count} {words} {escape_unprintable(chosen)} from the next request on. To end this:  "
        f"anthropic-proxy use {DEFAULT}{again}",
        "✓",
    )


def _end(call: _Call, body: Mapping[str, Any], output: Output, *, dry_run: bool, as_json: bool) -> None:
    ended = call("POST", SESSION_MODELS_PATH, {**body, "preview": dry_run})
    if as_json:
        output.write_json(ended)
        return
    reply = msgspec.convert(ended, _Reply)
    if not reply.sessions:
        output.write_notice("No session has a chosen model.")
    for one in reply.sessions:
        output.write_notice(f"{_name(one)} has the model again that its client names: {one.requested_model}", "✓")
    if dry_run:
        output.write_notice("Nothing is changed.")


def _list(call: _Call, sessions: Sequence[str], project: str | None, *, as_json: bool) -> None:
    if len(sessions) > 1:
        raise ConfigurationError("The list is of one session, or of all. Name one --session.", code="command-line")
    query = {name: text for name, text in (("session", "".join(sessions)), ("project", project)) if text}
    found = call("GET", f"{SESSION_MODELS_PATH}?{urlencode(query)}" if query else SESSION_MODELS_PATH, None)
    output = Output()
    if as_json:
        output.write_json(found)
        return
    reply = msgspec.convert(found, _Reply)
    if not reply.sessions:
        place = f" in the project {project}" if project else ""
        output.write_notice(f"No session of yours{place} has sent a request in the last hour.")
        return
    columns = [Column("Session"), Column("Model used"), Column("Chosen"), Column("Tokens", is_number=True)]
    columns.append(Column("Last request", is_number=True))
    rows = [
        [one.name, one.model, one.chosen_model or "", formats.short_count(one.tokens), _age(one)]
        for one in reply.sessions
    ]
    output.write_table(columns, [[escape_unprintable(text) for text in row] for row in rows])


def _show(output: Output, reply: _Reply) -> None:
    for one in reply.sessions:
        output.write_line(f"{_name(one)}: {escape_unprintable(f'{one.model} → {one.next_model}')}, {_age(one)}")
        output.write_line(f"  {escape_unprintable(one.about_cost)}")
        output.write_notice(escape_unprintable(one.about_window), "" if one.fits else "!")
    if reply.notice:
        output.write_notice(escape_unprintable(reply.notice), "!")


def _name(session: _Session) -> str:
    return escape_unprintable(session.name)


def _age(session: _Session) -> str:
    return formats.ago(time.time() - session.last_at.timestamp())


def _find_proxy() -> _Call:
    """Return the way to the proxy that Claude Code of this terminal uses, else that of this machine, else that at which
    the user has signed in. Raises `ConfigurationError` if there is none.
    """
    environ = copy_environment()
    settings = load_command_settings(is_client=True)
    if call := _find_named_proxy(environ, settings.tls_certificate_file or ""):
        return call
    settings = follow_session(settings)
    proxy = find_any_proxy(settings)
    if proxy is None and (remote := find_remote_proxy()) is not None:
        return remote.request
    proxy = require_proxy(settings)
    return _calling(proxy.address, proxy.token, proxy.certificate_file)


def _find_named_proxy(environ: Mapping[str, str], certificate_file: str) -> _Call | None:
    address = environ.get("ANTHROPIC_BASE_URL", "").rstrip("/")
    token = environ.get("ANTHROPIC_AUTH_TOKEN") or environ.get("ANTHROPIC_API_KEY") or ""
    if not (token and is_safe_address(address)):
        return None
    is_local = urlsplit(address).hostname in LOCAL_HOSTS
    return _calling(address, token, certificate_file if is_local and address.startswith("https:") else "")


def _calling(address: str, token: str, certificate_file: str) -> _Call:
    def call(method: str, path: str, body: Any) -> Any:
        data = b"" if body is None else msgspec.json.encode(body)
        try:
            return request_json(method, address, path, token, data, certificate_file=certificate_file)
        except ProxyError as error:
            raise ConfigurationError(f"{address}: {error.message}", code="session-model") from None

    return call
