"""Fields of `[providers.NAME]` that change the calls to a provider: headers, body fields and the header of the key.

A table with only such fields may have the name of a built-in provider. What a client or provider writes never decides
about a header: a client header is copied only if the file names it, and headers that frame or route a request, or that
contain credentials of the client, cannot be named.
"""

import hashlib
import math
import os
import re
import ssl
from base64 import b64decode
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from anthropic_proxy.engine.messages.purpose import HINT_HEADERS
from anthropic_proxy.engine.options import SECRET_HEADER, CallOptions, ConfiguredProvider
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.platforms.files import read_bounded_file
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.providers.lookup import ProviderRegistry
from anthropic_proxy.engine.providers.registry import Provider
from anthropic_proxy.engine.upstream.http.url import parse_proxy_url
from anthropic_proxy.errors import ConfigurationError, join_with_or
from anthropic_proxy.gateway.settings.config_file import ConfigFile, format_key_path, has_type
from anthropic_proxy.gateway.settings.file_format import ClientCertificate, HeaderReference, KeyPath, ProviderTable
from anthropic_proxy.gateway.settings.provider_tables import find_extended_provider
from anthropic_proxy.gateway.settings.sources import ErrorList, Sources
from anthropic_proxy.gateway.settings.values import is_variable_name, redact_and_shorten
from anthropic_proxy.secrets import KEY_BEGINNINGS, Secret, redact_key_patterns

_MAX_PEM_BYTES = 4 * 1024 * 1024
"""Maximum size of a file with certificates. The bundle of a system has about 230 KB."""
_HEADER_NAME = compile_anchored(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_SHELL_VARIABLE = compile_anchored(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?")
_VARIABLE_IN_TEXT = compile_later(r"\$\{[A-Za-z_][A-Za-z0-9_]*(?::-[^}]*)?\}", most=4_000)
_HEADER_TEXT = compile_anchored(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")
_FRAMING_HEADERS = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"),
        *("transfer-encoding", "upgrade", "host", "content-length", "content-type", "content-encoding", "expect"),
        *("accept-encoding", "traceparent", "tracestate"),
    }
)
"""Headers that the proxy sets itself: hop-by-hop headers (RFC 9110, 7.6.1), framing, encodings and traces."""
_CLIENT_CREDENTIALS = frozenset({"authorization", "x-api-key", "api-key", "cookie", "proxy-authorization"})
"""Client headers that may contain a key of the proxy, or the login of a browser."""
SECRET_WORDS = (
    r"pass(?:word|wd|phrase)|pwd|secret|authorization|credentials?|cookie|jwt"
    r"|(?:api|access|auth|private|secret|signing|subscription|bearer)[-_]?(?:keys?|tokens?)"
)
"""Words in the name of a field by which its text is a secret, as a part of a pattern."""
_SECRET_FIELD = compile_later(rf"(?:^|[-_.])(?:{SECRET_WORDS})(?:$|[-_.])|^(?:key|token|auth)s?$", re.IGNORECASE)
"""Fields of a body whose names say that they contain a secret. `prompt_cache_key` and `eos_token` do not."""
_CAPITAL = compile_later(r"(?<=[a-z0-9])(?=[A-Z])")
_AUTHORIZATION = compile_anchored(r"(?:bearer|basic|token)\s", re.IGNORECASE)
_MIN_SECRET = 16
"""Minimum characters of a key in a body field, where a short text may begin like a key."""
_PROTECTED_BODY_FIELDS = frozenset(
    {
        *("model", "messages", "input", "contents", "system", "instructions", "systemInstruction"),
        *("system_instruction", "tools", "stream", "stream_options", "n"),
    }
)
"""Body fields that contain the request itself, or decide in which form the reply arrives."""


def load_call_options(
    file: ConfigFile, tables: Sequence[ConfiguredProvider], built_in: ProviderRegistry, sources: Sources
) -> Mapping[str, CallOptions]:
    """Return provider name → options. `sources` receives errors, and the lines of the settings."""
    table_names = {table.name for table in tables}
    options_by_provider = {}
    for name, table in file.tables.providers.items():
        row = find_extended_provider(file, name, built_in)
        if row is None and name not in table_names:
            continue
        provider = name if row is None else row.name
        with sources.errors.collect():
            if provider in options_by_provider:
                raise file.rejection(
                    ("providers", name),
                    f"repeats [providers.{provider}]: both names mean the same provider.",
                    subject=f"[providers.{name}]",
                    code="named-provider",
                )
            options = _load_table(file, name, table, row, sources)
            if options.shown:
                options_by_provider[provider] = options
    return options_by_provider


def _load_table(
    file: ConfigFile, name: str, table: ProviderTable, row: Provider | None, sources: Sources
) -> CallOptions:
    path = ("providers", name)
    errors = ErrorList()
    if row is not None and row.transport != "http":
        raise file.rejection(
            path,
            f"has no effect: the proxy itself sends no HTTP requests to {row.title}.",
            subject=f"[providers.{name}]",
            code="named-provider",
        )
    shown: dict[str, str] = {}
    fields: dict[str, Any] = {}

    def show(keys: KeyPath, text: str) -> None:
        setting = f"{format_key_path(keys)} of [providers.{name}]"
        shown[setting] = text
        sources.origins[setting] = file.describe_origin((*path, *keys))

    if table.key_header is not None:
        with errors.collect():
            fields["key_header"] = _decode_header_name(file, (*path, "key_header"), table.key_header)
            show(("key_header",), fields["key_header"])
    headers: dict[str, str] = {}
    secrets: dict[str, Secret] = {}
    copied: dict[str, str] = {}
    for header, value in table.headers.items():
        place = (*path, "headers", header)
        with errors.collect():
            lower = _decode_header_name(file, place, header)
            _require_allowed_header(file, place, lower, fields.get("key_header"))
            _require_new_header(file, place, lower, {**headers, **secrets, **copied})
            if isinstance(value, str):
                headers[lower] = _decode_text(file, place, lower, value)
                show(("headers", header), redact_and_shorten(value))
                continue
            reference = _decode_reference(file, place, value)
            if reference.client is not None:
                copied[lower] = reference.client.lower()
                show(("headers", header), f"the client header {copied[lower]}")
            elif reference.env is not None:
                secrets[lower] = _find_variable(file, place, reference.env, sources, in_header=True)
                show(("headers", header), str(secrets[lower]))
    body: dict[str, Any] = {}
    for field, value in table.body.items():
        place = (*path, "body", field)
        with errors.collect():
            if field in _PROTECTED_BODY_FIELDS:
                raise file.rejection(
                    place,
                    "cannot be set: the proxy writes this field from the request of the "
                    f"client, as it does with {join_with_or(sorted(_PROTECTED_BODY_FIELDS - {field}))}.",
                    code="provider-body",
                )
            body[field] = _decode_body_value(file, place, value, sources)
            text = msgspec.json.encode(body[field], enc_hook=str).decode()  # a secret is shown masked
            show(("body", field), redact_and_shorten(redact_key_patterns(text)))
    if table.proxy is not None:
        with errors.collect():
            fields["proxy"] = _decode_proxy(file, (*path, "proxy"), table.proxy, sources)
            address = urlsplit(fields["proxy"].reveal())
            show(("proxy",), f"{address.scheme}://{address.netloc.rpartition('@')[2]}" if address.scheme else "none")
    digest = hashlib.sha256()
    if table.ca_file is not None:
        with errors.collect():
            fields["ca_file"] = _load_pem(file, (*path, "ca_file"), table.ca_file, digest)
            show(("ca_file",), fields["ca_file"])
    if table.client_certificate is not None:
        with errors.collect():
            _load_certificate(file, (*path, "client_certificate"), table.client_certificate, fields, digest)
            show(("client_certificate", "file"), fields["certificate_file"])
            if fields["certificate_key_file"]:
                show(("client_certificate", "key_file"), fields["certificate_key_file"])
    if table.requests_per_minute is not None:
        fields["requests_per_minute"] = table.requests_per_minute
        show(("requests_per_minute",), str(table.requests_per_minute))
    errors.require_empty()
    fields |= {"files_digest": digest.hexdigest() if {"ca_file", "certificate_file"} & fields.keys() else ""}
    fields |= {"headers": headers, "copied_headers": copied, "body": body}
    options = CallOptions(secret_headers=secrets, shown=shown, **fields)
    if shown:
        setting = f"providers.{name}"
        before = sources.given[setting].reveal() if setting in sources.given else ""
        sources.given[setting] = Secret(f"{before} {options.reveal_secrets()} {fields}")
    return options


def load_headers(file: ConfigFile, path: KeyPath, table: Mapping[str, object], sources: Sources) -> dict[str, Secret]:
    """Return lower-case name → text of the headers of requests that the proxy sends on its own. Raises
    `ConfigurationError` for each that is invalid.
    """
    errors = ErrorList()
    headers: dict[str, Secret] = {}
    for name, value in table.items():
        place = (*path, name)
        with errors.collect():
            lower = _decode_header_name(file, place, name)
            _require_new_header(file, place, lower, headers)
            if isinstance(value, str):
                headers[lower] = Secret(_decode_text(file, place, lower, value), format_key_path(place))
                continue
            reference = _decode_reference(file, place, value)
            if reference.env is None:
                raise file.rejection(
                    place, 'is of no request of a client. Use a text or { env = "NAME" }.', code="provider-header"
                )
            headers[lower] = _find_variable(file, place, reference.env, sources, in_header=True)
    errors.require_empty()
    return headers


def _require_new_header(file: ConfigFile, path: KeyPath, name: str, headers: Collection[str]) -> None:
    if name in headers:
        raise file.rejection(
            path, "is set twice: upper and lower case are equal in names of headers.", code="provider-header"
        )


def _decode_header_name(file: ConfigFile, path: KeyPath, name: str) -> str:
    if not _HEADER_NAME.fullmatch(name):
        raise file.invalid_value_error(path, name, "Use the name of a header: letters, digits and hyphens.")
    if name.lower() in _FRAMING_HEADERS:
        raise file.rejection(
            path,
            f'names the header "{name.lower()}", which the proxy sets itself, as it does with '
            f"{join_with_or(sorted(_FRAMING_HEADERS - {name.lower()}))}.",
            code="provider-header",
        )
    return name.lower()


def _require_allowed_header(file: ConfigFile, path: KeyPath, name: str, key_header: str | None) -> None:
    if name == key_header:
        raise file.rejection(
            path, "is also key_header, so it gets the API key. Remove one of the two.", code="provider-header"
        )
    if name == "authorization" and key_header is None:
        raise file.rejection(
            path,
            "cannot be set, because this header may contain the API key. Use api_key, or name "
            'another header for the key:  key_header = "x-api-key".',
            code="provider-header",
        )


def _is_credential(text: str) -> bool:
    return text.startswith(KEY_BEGINNINGS) or _AUTHORIZATION.match(text) is not None


def _decode_text(file: ConfigFile, path: KeyPath, name: str, text: str) -> str:
    if SECRET_HEADER.search(name) or _is_credential(text):
        variable = _name_variable(path)
        raise file.rejection(
            path,
            "is a text, but this file must not contain keys.",
            code="provider-header",
            hint=f'Put the value into .env as {variable}=… and write  {{ env = "{variable}" }}',
        )
    _require_no_variable(file, path, text)
    if not _HEADER_TEXT.fullmatch(text):
        raise file.invalid_value_error(path, text, "Use a text of visible ASCII characters in one line.")
    return text


def _require_no_variable(file: ConfigFile, path: KeyPath, text: str) -> None:
    if reference := _SHELL_VARIABLE.fullmatch(text):
        example = f'Write  {{ env = "{reference[1]}" }}  for the value of a variable.'
        raise file.invalid_value_error(path, text, example)
    if _VARIABLE_IN_TEXT.search(text):
        variable = _name_variable(path)
        raise file.invalid_value_error(
            path,
            text,
            "A text is sent as it is, without the values of variables. "
            f'Write  {{ env = "{variable}" }}  and put the whole text into .env as the value of {variable}, '
            "or into the environment if ${…} is a part of the text itself.",
        )


_NOT_IN_VARIABLES = compile_later(r"[^A-Z0-9]+")


def _name_variable(path: KeyPath) -> str:
    """Return the name of a variable for a value of a table: `OPENAI_X_TEAM` for providers.openai.headers.x-team."""
    return _NOT_IN_VARIABLES.sub("_", "_".join((path[1], *(path[3:] or path[2:]))).upper()).strip("_")


def _decode_reference(file: ConfigFile, path: KeyPath, value: object) -> HeaderReference:
    allowed = 'Use a text, { env = "NAME" } or { client = "name-of-a-header" }.'
    if not isinstance(value, dict) or len(value) != 1 or not has_type(value, HeaderReference):
        raise file.rejection(
            path, f"is invalid. {allowed} Its value is not shown, because it may be a key.", code="provider-header"
        )
    reference = msgspec.convert(value, HeaderReference)
    if reference.client is not None:
        source = (*path, "client")
        if not _HEADER_NAME.fullmatch(reference.client):
            raise file.invalid_value_error(source, reference.client, "Use the name of a client header, such as x-team.")
        if reference.client.lower() in _CLIENT_CREDENTIALS | _FRAMING_HEADERS:
            raise file.rejection(
                source,
                f'is "{reference.client.lower()}", which may contain a key of the client or '
                "belongs to its connection. Name another header.",
                code="provider-header",
            )
        if reference.client.lower() in HINT_HEADERS:
            raise file.rejection(
                source,
                f'is "{reference.client.lower()}", with which Claude Code tells the proxy '
                "what a request is for. No provider gets it. Name another header.",
                code="provider-header",
            )
    return reference


def _find_variable(
    file: ConfigFile, path: KeyPath, variable: str, sources: Sources, *, in_header: bool = False
) -> Secret:
    where = f"{format_key_path(path)} in {file.describe_origin_in_sentence(path)}"
    if not is_variable_name(variable):
        raise ConfigurationError(
            f"The field env of {where}, is not the name of a variable. Its text is not shown, because it may be a key. "
            'Put the value into .env as NAME=… and write  { env = "NAME" }',
            code="provider-header",
        )
    given = sources.find_referenced_key_variable(variable)
    if given is None and not sources.is_readable:  # the file may have it
        return Secret("")
    if given is None:
        raise ConfigurationError(
            f"{variable} is not set, but it is the value of {where}. Set it in .env or in the environment.",
            code="provider-header",
        )
    if in_header and not _HEADER_TEXT.fullmatch(given.text):
        raise ConfigurationError(
            f"{variable} cannot be the value of {where}: it contains a line break or a letter outside ASCII."
            f"{given.location}",
            code="provider-header",
        )
    return Secret(given.text, f"{variable} {given.origin_phrase}")


def _decode_proxy(file: ConfigFile, path: KeyPath, value: object, sources: Sources) -> Secret:
    """The result is "" for no proxy."""
    if value == "none":
        return Secret("")
    allowed = 'Use http://host:port, https://…, socks5://…, socks5h://…, { env = "NAME" } or "none".'
    if isinstance(value, str):
        if "@" in value:
            variable = _name_variable(path)
            raise file.rejection(
                path,
                "contains a user or password, but this file must not contain keys.",
                code="provider-connection",
                hint=f'Put the address into .env as {variable}=… and write  proxy = {{ env = "{variable}" }}',
            )
        _require_no_variable(file, path, value)
        if not _is_proxy_address(value):
            raise file.invalid_value_error(path, value, allowed)
        return Secret(value)
    if not isinstance(value, dict) or value.keys() != {"env"} or not isinstance(value["env"], str):
        raise file.rejection(
            path, f"is invalid. {allowed} Its value is not shown, because it may be a key.", code="provider-connection"
        )
    address = _find_variable(file, path, value["env"], sources)
    if address.reveal() and not _is_proxy_address(address.reveal()):
        raise ConfigurationError(
            f"{value['env']} is not the address of a proxy, but it is the value of {format_key_path(path)} in "
            f"{file.describe_origin_in_sentence(path)}. Its text is not shown, because it may contain a password. "
            "Use http://user:password@host:port, https://…, socks5://… or socks5h://….",
            code="provider-connection",
        )
    return address


def _is_proxy_address(text: str) -> bool:
    try:
        url = parse_proxy_url(text)
        socks_texts = b64decode(url.authorization.partition(" ")[2]).split(b":", 1)
    except ValueError:
        return False
    return url.request_target == "/" and (
        not url.origin.uses_socks or all(len(socks_text) < 256 for socks_text in socks_texts)
    )


def _find_file(file: ConfigFile, path: KeyPath, text: str, digest: "hashlib._Hash") -> str:
    """Return the absolute path of a file, and add its contents to `digest`."""
    absolute_path = os.path.normpath(
        os.path.join(os.path.dirname(os.path.abspath(file.path)), os.path.expanduser(text))
    )
    try:
        digest.update(read_bounded_file(Path(absolute_path), _MAX_PEM_BYTES))
    except OSError as error:
        raise file.invalid_value_error(
            path,
            text,
            f"The file {absolute_path} cannot be read: {describe_os_error(error)}. Use the path of a PEM file.",
        ) from None
    return absolute_path


def _load_pem(file: ConfigFile, path: KeyPath, text: str, digest: "hashlib._Hash") -> str:
    pem_file = _find_file(file, path, text, digest)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(pem_file)
    except ssl.SSLError:
        raise file.invalid_value_error(
            path, text, "The file contains no certificate in PEM form: -----BEGIN CERTIFICATE-----."
        ) from None
    return pem_file


def _load_certificate(
    file: ConfigFile, path: KeyPath, table: ClientCertificate, fields: dict[str, Any], digest: "hashlib._Hash"
) -> None:
    fields["certificate_file"] = certificate_file = _find_file(file, (*path, "file"), table.file, digest)
    key_file = ""
    key_path = (*path, "file")
    key_text = table.file
    if table.key_file is not None:
        key_path = (*path, "key_file")
        key_text = table.key_file
        key_file = _find_file(file, key_path, key_text, digest)
    fields["certificate_key_file"] = key_file

    def refuse_password() -> str:
        raise ValueError

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate_file, key_file or None, refuse_password)
    except ValueError:
        raise file.invalid_value_error(
            key_path, key_text, "The private key has a password. Use a file with a key without a password."
        ) from None
    except ssl.SSLError as error:
        reason = "do not belong together" if error.reason == "KEY_VALUES_MISMATCH" else "were not found in PEM form"
        raise file.invalid_value_error(
            key_path, key_text, f"The certificate and its private key {reason}. Use file and key_file of one pair."
        ) from None


def _decode_body_value(file: ConfigFile, path: KeyPath, value: object, sources: Sources) -> object:
    """Return a value for JSON. `{ env = "NAME" }` becomes the secret value of the variable."""
    if isinstance(value, dict):
        if value.keys() == {"env"} and isinstance(value["env"], str):
            return _find_variable(file, path, value["env"], sources)
        return {name: _decode_body_value(file, (*path, name), inner, sources) for name, inner in value.items()}
    if isinstance(value, list):
        return [_decode_body_value(file, path, inner, sources) for inner in value]
    if not isinstance(value, str | bool | int | float) or (isinstance(value, float) and not math.isfinite(value)):
        allowed = "Use a text, a finite number, true, false, a list or a table, because JSON has no other values."
        raise file.invalid_value_error(path, str(value), allowed)
    if isinstance(value, bool) or value == "":
        return value
    is_key = isinstance(value, str) and len(value) >= _MIN_SECRET and _is_credential(value) and len(value.split()) <= 2
    if is_key or _SECRET_FIELD.search(_CAPITAL.sub("_", path[-1])):
        variable = _name_variable(path)
        raise file.rejection(
            path,
            "may be a key, but this file must not contain keys.",
            code="provider-body",
            hint=f'Put the value into .env as {variable}=… and write  {{ env = "{variable}" }}',
        )
    if isinstance(value, str):
        _require_no_variable(file, path, value)
    return value
