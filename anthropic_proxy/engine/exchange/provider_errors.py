"""Errors of providers: their decoding, and the cause and remedy in their messages.

A message names the provider, and the setting that the user must change: the key, the base URL or the model. The status
stays that of the provider: `client_errors.py` says which one the client gets.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from datetime import date
from urllib.parse import urlsplit

from anthropic_proxy.engine.exchange.client_side import format_http_date
from anthropic_proxy.engine.exchange.relay import forwarded_headers
from anthropic_proxy.engine.exchange.upstream_stream import MAX_BODY_BYTES
from anthropic_proxy.engine.exchange.watchdog import Watchdog
from anthropic_proxy.engine.messages.deltas import Delta
from anthropic_proxy.engine.options import EngineOptions
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.providers import Provider
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.providers.hosts import find_called_url
from anthropic_proxy.engine.routing.problems import describe_guess
from anthropic_proxy.engine.routing.replacements import (
    find_successor_id,
    list_known_ids,
    list_model_replacements,
    list_served_models,
)
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.engine.wires.calls import Call
from anthropic_proxy.engine.wires.dialect import BaseDialect
from anthropic_proxy.engine.wires.failures import decode_error_body
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamResponse, read_body, require_few_parts
from anthropic_proxy.errors import (
    REMEDY_LEAD,
    InternalError,
    ProxyBusy,
    ProxyError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnreachable,
    end_sentence,
)

_UNSUPPORTED_ENCODINGS = ("br", "zstd", "compress")
"""Values of `content-encoding` that the proxy cannot decode. Unknown values are ignored, because some servers send them
with uncompressed bodies."""

_CLIENT_LOGIN = compile_later(r"(?:[^\s.:;(][^.:;(\n]{0,100}?)??\bx-api-key\b[^.;)\n]{0,100}", re.IGNORECASE)
"""Pattern of a sentence that makes Claude Code ask its user to log in (observed with 2.1.328). The proxy
removes it from errors of providers, because the client's log-in is not the cause."""


def idle_timeout_error(provider: str, seconds: float) -> UpstreamTimeout:
    limits = "UPSTREAM_FIRST_BYTE_TIMEOUT and UPSTREAM_IDLE_TIMEOUT set this limit"
    return UpstreamTimeout(f"{provider} sent no data for {seconds:g} s; {limits}.", provider=provider)


_CAUSES = {
    "no-server": "no connection",
    "no-token-server": "no connection",
    "no-data": "timeout",
    "token-timeout": "timeout",
    "incomplete-reply": "connection lost",
    "invalid-reply": "invalid reply",
    "unreadable-output": "unreadable reply",
    "provider-not-called": "circuit_open",
    "provider-throttle": "throttled",
}
"""Code of an error → cause of an attempt without a usable response. The status of the error is the proxy's own."""


def describe_attempt(target: Target, error: UpstreamError | ProxyBusy) -> str:
    """Return a failed attempt for the log and a response header: `groq 503`, with the status that the provider sent, or
    `groq no connection`, with the cause if there was no usable response.
    """
    status = error.provider_status if isinstance(error, UpstreamError) else None
    cause = status or _CAUSES.get(error.code, error.status)
    return f"{target.provider.prefix} {cause}"


def next_target_may_help(error: ProxyError) -> bool:
    # a relay keeps the status of its server, which may be 400
    is_named = error.error_type in ("billing_error", "not_found_error")
    if isinstance(error, UpstreamError) and (is_named or error.lacks_feature):
        return True
    return error.status in _STATUSES_OF_THE_PLACE or error.status >= 500


_STATUSES_OF_THE_PLACE = (401, 402, 403, 404, 407, 408, 421, 424, 425, 429, 451)
"""HTTP statuses below 500 that another provider may not have, because they are not about the content of the request."""
_PAGE_TYPES = ("text/html", "application/xhtml+xml")
_PAGE = compile_anchored(rb"\s*<(?:!doctype html|html)\b", re.IGNORECASE)
_MAX_BEGINNING_BYTES = 2_000
_STATUSES_OF_PAGES = (401, 403, 407, 511)
"""HTTP statuses after which a web page shows that something else than the API has answered. After others above 400, it
means the same as a JSON error."""


def require_api_response(response: UpstreamResponse, target: Target, settings: EngineOptions) -> None:
    """Raise `UpstreamProtocolError` for a redirect, a web page, an invalid status or an unsupported compression."""
    status = response.status
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    coding = response.headers.get("content-encoding", "").lower()
    code = ""
    if 300 <= status < 400:
        code = "not-an-api"
        location = response.headers.get("location", "").partition("?")[0]
        problem = f"HTTP {status} is a redirect{f' ({location})' if location else ''}; redirects are not followed"
    elif 200 <= status < 300 and kind == "text/html":
        code = "not-an-api"
        problem = f"the response is a web page (HTTP {status}, text/html) instead of an API response"
    elif 200 <= status < 300 and coding in _UNSUPPORTED_ENCODINGS:
        problem = f"the reply is compressed (content-encoding: {coding}), which was not requested and is not supported"
    elif not 200 <= status < 600:
        problem = f"HTTP {status} is not a valid status for a reply"
    else:
        return
    raise _build_address_error(f"{problem}.", code, target, settings)


def require_no_page(
    status: int, headers: Mapping[str, str], body: bytes, target: Target, settings: EngineOptions
) -> None:
    """Raise `UpstreamProtocolError` for the web page with which a gateway, or the log-in of a network, refuses a call.

    No key of the provider was rejected then.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    beginning = body[:_MAX_BEGINNING_BYTES]
    if status not in _STATUSES_OF_PAGES or not (kind in _PAGE_TYPES or _PAGE.match(beginning)):
        return
    problem = f"the response is a web page (HTTP {status}, text/html) instead of an API response"
    problem += ", as gateways, firewalls and networks with a log-in send it."
    error = _build_address_error(problem, "not-an-api", target, settings)
    error.provider_status = status
    error.add_note(decode_error_body(status, headers, beginning).excerpt)
    raise error


def _build_address_error(problem: str, code: str, target: Target, settings: EngineOptions) -> UpstreamProtocolError:
    error = UpstreamProtocolError(problem, code=code, should_retry=False, retryable=False)
    error.add_advice(describe_base_url_setting(target.provider, settings))
    return error


def decode_error_response(
    target: Target, call: Call[BaseDialect], status: int, headers: Mapping[str, str], body: bytes
) -> list[Delta]:
    """Raise the error of a response. Return the deltas of a complete reply, such as a refusal, with an error status."""
    outcome = target.wire.decode_error(call, status, headers, body)
    if isinstance(outcome, UpstreamError) and target.is_relayed:
        outcome.headers = forwarded_headers(headers)
    if isinstance(outcome, ProxyError):
        raise outcome
    if target.is_relayed or not isinstance(outcome, list):
        raise InternalError(f"a wire gave {outcome!r} for an error answer")
    return outcome


async def read_error_body(response: UpstreamResponse, watchdog: Watchdog) -> bytes:
    """Return the body of an error response. b"": it did not arrive completely or in time, or has too many parts."""
    try:
        body = await read_body(response, MAX_BODY_BYTES, watchdog.note_content)
        require_few_parts(body)
    except UpstreamError:
        return b""
    except asyncio.CancelledError:
        if not watchdog.recover_from_idle():
            raise
        return b""
    return body


def add_missing_date(headers: Mapping[str, str], clock: Callable[[], float]) -> Mapping[str, str]:
    """Return the headers with a `date` (RFC 9110, 6.6.1), from which a time of retry is converted to a delay."""
    if "date" in headers:
        return headers
    return {"date": format_http_date(clock())} | {name.lower(): value for name, value in headers.items()}


def prefix_provider(error: UpstreamError, name: str) -> None:
    if name and not error.provider:
        error.provider = name
        error.message = f"{name}: {error.message}"


def add_key_setting(error: UpstreamError, target: Target, credential: Credential | None) -> None:
    """Name the provider, and the source of a key that it, or a gateway before it, rejected.

    Texts such as `invalid x-api-key` are replaced, because Claude Code would ask its user to log in.
    """
    prefix_provider(error, target.provider.prefix)
    if not (error.status == 401 or error.provider_status == 401):
        return
    if not error.has_client_key and _CLIENT_LOGIN.search(error.message):
        error.message = _CLIENT_LOGIN.sub("the key is not accepted", error.message)
    if credential is None and (variable := target.provider.key_variable):
        error.message = f"{end_sentence(error.message)} No key was sent: {variable} is not set."
    elif credential is not None and credential.origin not in error.message:
        error.message = f"{end_sentence(error.message)} The key comes from {credential.origin}."


def add_address_advice(error: UpstreamError, target: Target, settings: EngineOptions) -> None:
    if error.advice or not (advice := describe_connection_advice(error, target.provider, settings)):
        return
    error.message += "."
    error.add_advice(advice)


def describe_connection_advice(error: ProxyError, provider: Provider, settings: EngineOptions) -> str:
    """Return sentences for a failed connection: which setting has the base URL, and how a local server is started."""
    if not isinstance(error, UpstreamUnreachable):
        return ""
    start = ""
    if error.should_retry is False and error.concerned_field != "proxy":  # a local server refuses connections
        start = " Start it: ollama serve" if provider.uses_installed_models else " Start this server."
    return f"{describe_base_url_setting(provider, settings)}{start}"


_UNKNOWN_MODEL = compile_later(
    r"model_not_found|access to (?:the )?model\b|(?:invalid|unknown|no such|unsupported) model\b|not a valid model"
    r"|\b(?:model|deployment|engine)\b.{0,300}?\b(?:not found|not exist|unknown|no longer|not available|not supported|"
    r"decommissioned|deprecated|retired|no access|have access)",
    re.IGNORECASE | re.DOTALL,
)
"""Texts of errors with a status other than 404 about an unknown model: DeepSeek `Model Not Exist`, OpenRouter `… is not
a valid model ID`, Mistral `Invalid model: …` (their API references, read 2026-11)."""
_MODEL_WORDS = compile_later(r"\b(?:model|deployment|engine)s?\b", re.IGNORECASE)
_NOT_SERVED = compile_later(
    r"\bnot[ _]found|page|cannot (?:post|get)|\broutes?\b|\bpath\b|\burls?\b|unexpected endpoint|unknown endpoint"
    r"|no handler|not served|\bno static resource",
    re.IGNORECASE,
)
"""Pattern of error texts about an unknown URL path, as web frameworks and gateways write them: FastAPI, Express,
Fastify, Go, nginx, Spring, Kong, LM Studio."""
_METHOD_REFUSED = compile_later(r"\bmethod\b.{0,20}\bnot (?:allowed|supported)", re.IGNORECASE)
"""Pattern of error texts about the HTTP method. They indicate a wrong URL path: a server that answers every path with a
web page, such as Open WebUI, rejects `POST`."""
_OTHER_OBJECTS = compile_later(
    r"\b(?:files?|responses?|items?|containers?|vectors?|conversations?|threads?|cached?|batch|images?)\b",
    re.IGNORECASE,
)
"""Words for objects other than models that a request names by id. A 404 with such a word is not about the model."""
_OBJECT_WITH_ID = compile_later(
    r"\bcached?\b|\bwith id\b|\b(?:resp|file|conv|thread|batch|vs|item|msg)[-_]\w{6,}", re.IGNORECASE
)
"""Pattern of error texts about an object that a request names by id. Gemini: Not found: cache content metadata for 123
(recorded). OpenAI: Response with id 'resp_123' not found (2026-11). The base URL is then right."""
_MAX_ROUTE_ERROR_CHARACTERS = 200
_LIST_SECONDS = 2.0
"""Maximum seconds for which the error about a refused model waits for the list of the server."""
_NAMED_MODELS = 2
"""Number of models that are named in place of one that does not exist."""


def add_not_found_cause(
    error: UpstreamError, target: Target, path: str, settings: EngineOptions, catalog: Catalog
) -> None:
    """Add cause and remedy to the message of `error`, if the provider rejects the URL or the model."""
    text = error.provider_text
    refuses_method = _METHOD_REFUSED.search(text) is not None if text else error.provider_status == 405
    is_405 = error.status == 400 and refuses_method
    if (error.status == 404 or is_405) and _is_about_address(error, target, settings):
        message, advice, remedy = _describe_address(error, target, path, settings, 405 if is_405 else 404)
        _become(error, message, "wrong-address")
        error.add_advice(f"{advice} Try " if remedy else advice, remedy)
    elif rejects_configured_model(error, target, settings):
        origin, remedy = _describe_setting(target, settings, catalog)
        message = f"{_without_end(error.message)}. {origin}"
        _become(error, message, "configured-model-not-found")
        error.add_advice(REMEDY_LEAD, remedy)
    elif target.is_guess and _rejects_model(error, target, settings):
        error.message, error.body = f"{_without_end(error.message)}. {describe_guess(target, settings)}", None


async def read_list_for_remedy(error: UpstreamError, target: Target, settings: EngineOptions, catalog: Catalog) -> None:
    """Read the list of a server that refuses a model of the settings, so that a remedy names only models in it."""
    if rejects_configured_model(error, target, settings) and not list_known_ids(target, settings, catalog):
        await catalog.fetch_capabilities(target.provider.name, target.model, _LIST_SECONDS)


def rejects_configured_model(error: UpstreamError, target: Target, settings: EngineOptions) -> bool:
    """Return True if the provider does not know, or no longer serves, a model that the proxy or a setting chose."""
    return target.model_setting is not None and _rejects_model(error, target, settings)


def _rejects_model(error: UpstreamError, target: Target, settings: EngineOptions) -> bool:
    if error.status == 404:
        return not _is_about_address(error, target, settings) and not _OTHER_OBJECTS.search(error.provider_text)
    return error.status in (400, 403) and _UNKNOWN_MODEL.search(error.provider_text) is not None


def _become(error: UpstreamError, message: str, code: str) -> None:
    error.code, error.message, error.body = code, message, None


def _is_about_address(error: UpstreamError, target: Target, settings: EngineOptions) -> bool:
    provider = target.provider
    may_be_wrong = provider.has_local_url or _find_address_variable(provider, settings) is not None
    if provider.transport != "http" or not may_be_wrong:
        return False
    text = error.provider_text.strip()
    if error.parameter == "model" or target.model in text or _MODEL_WORDS.search(text) or _OBJECT_WITH_ID.search(text):
        return False
    return len(text) <= _MAX_ROUTE_ERROR_CHARACTERS and (
        not text or _NOT_SERVED.search(text) is not None or _METHOD_REFUSED.search(text) is not None
    )


def _describe_address(
    error: UpstreamError, target: Target, path: str, settings: EngineOptions, status: int
) -> tuple[str, str, str]:
    """Return the message, its end about the setting, and the line that may be right. "": none is known."""
    provider = target.provider
    base = target.base_url.partition("?")[0].rstrip("/")
    address = f"{base}/{path.partition('?')[0].lstrip('/')}"
    text = _without_end(error.provider_text)
    quoted = f" ({text})" if text and len(text) <= 80 else ""
    message = f"{provider.prefix}: nothing is served at {address}: HTTP {status}{quoted}{error.advice}."
    variable = _find_address_variable(provider, settings)
    if variable is None:
        where = f"This is the default address of {provider.title}; {provider.base_url_variable} sets another."
        return message, f" {where}", ""
    described = describe_base_url_setting(provider, settings)
    question, better = suggest_base_url(provider, settings)
    line = assign_base_url(provider, settings, better) if better else ""
    return message, f"{described} {question}", line


def describe_base_url_setting(provider: Provider, settings: EngineOptions) -> str:
    """Return a sentence with the setting of a provider's base URL and its place. "": the default base URL is used."""
    variable = _find_address_variable(provider, settings)
    if variable is None:
        return ""
    return f" The address is set by {variable}, {settings.origins.get(variable, 'set')}."


def suggest_base_url(provider: Provider, settings: EngineOptions) -> tuple[str, str]:
    """Return what may be wrong with a base URL that is set, and a better one. "": none is known."""
    given = settings.base_urls[provider.name].partition("?")[0]
    path = urlsplit(given).path.rstrip("/")
    usual = urlsplit(provider.reference_url or provider.base_url).path
    version = usual.rpartition("/")[2]
    if version and version not in path.split("/"):
        return f"Is /{version} missing?", f"{given}/{version}"
    if not version and path and find_called_url(provider, settings).endswith(path):
        return f"Is {path} superfluous?", given.removesuffix(path)
    return "Check its path.", ""


def assign_base_url(provider: Provider, settings: EngineOptions, address: str) -> str:
    """Return the line of a settings file that sets another base URL than the one that is set."""
    variable = _find_address_variable(provider, settings)
    return f'base_url = "{address}"' if provider.is_configured else f"{variable}={address}"


def _describe_setting(target: Target, settings: EngineOptions, catalog: Catalog) -> tuple[str, str]:
    """Return a sentence about the setting that names the model, and the remedy."""
    provider, setting = target.provider, target.model_setting
    assert setting is not None  # `rejects_configured_model`
    listed = list_known_ids(target, settings, catalog)
    served = list_served_models(target, settings, listed)
    successor = find_successor_id(target, settings, date.max)  # refused before its announced date too
    is_certain = bool(served) and (successor == f"{provider.prefix}/{served[0]}" or (bool(listed) and len(served) == 1))
    other = f"{provider.prefix}/{served[0] if is_certain else '<another model>'}"
    if setting.source:
        origin = f"The model {target.prefixed_id} is set by {setting}."
        found = list_model_replacements(
            lambda choice: other if choice.prefixed_id == target.prefixed_id else "", settings, catalog
        )
        places = (one.instruction for one in found if one.setting.name == setting.name)
        remedy = next(places, f"set {setting.name}={other}")
    else:
        is_default = target.model in (provider.default_big_model, provider.default_small_model)
        verb = "is the default" if is_default else "replaces the retired default"
        origin = f"{target.prefixed_id} {verb} of {setting.name}, which is not set."
        remedy = f"set {setting.name}={other} in {settings.variables_file}"
    such_as = "" if is_certain or not served else f", such as {' or '.join(served[:_NAMED_MODELS])}"
    return origin, f"{remedy}{such_as}"


def _find_address_variable(provider: Provider, settings: EngineOptions) -> str | None:
    if provider.name not in settings.base_urls:
        return None
    origins: Mapping[str, str] = settings.origins
    names = (provider.base_url_variable, f"{provider.env_prefix}_BASE_URL")
    otherwise = None if provider.is_configured else provider.base_url_variable  # a vendor has an address without it
    return next((name for name in names if name in origins), otherwise)


def _without_end(text: str) -> str:
    return text.rstrip().rstrip(".")
