"""Decoders of setting texts, and their display with masked keys.

Each decoder raises `ConfigurationError` for an invalid text, with the allowed values.
"""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from urllib.parse import unquote_plus, urlsplit

from msgspec import structs

from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.providers.lookup import find_vendor
from anthropic_proxy.engine.providers.model_ids import is_model_name
from anthropic_proxy.engine.providers.registry import Provider
from anthropic_proxy.errors import ConfigurationError, InvalidRequest, find_similar_choice, join_with_or
from anthropic_proxy.gateway.settings.database_address import parse_postgres_url
from anthropic_proxy.gateway.settings.fields import MAX_SIGN_IN_SECRETS
from anthropic_proxy.gateway.settings.key_rules import (
    BUDGET_FORMS,
    MAX_AMOUNT,
    MAX_DOLLARS,
    Budget,
    Rules,
    decode_budget,
    require_valid_rules,
)
from anthropic_proxy.gateway.settings.sources import FoundSetting
from anthropic_proxy.secrets import KEY_BEGINNINGS, Secret

_BOOLEANS = {
    **dict.fromkeys(("true", "1", "yes", "on", "y", "t"), True),
    **dict.fromkeys(("false", "0", "no", "off", "n", "f"), False),
}
_SECRET_PATTERN = compile_later(r"//[^/]*@|[?&]\w*(?:key|token|secret)=|^(?=.*[a-zA-Z])(?=.*\d)[\w-]{32,}$")
_VARIABLE_NAME = compile_anchored(r"[A-Za-z_][A-Za-z0-9_]*")
_MIN_KEY_CHARACTERS = 16
_MIN_SECRET_CHARACTERS = 32
_MAX_NOTICE_CHARACTERS = 500
"""Number of characters of a notice that Claude Code shows."""
_HEADER_TEXT = compile_anchored(r"[\x21-\x7e]+")
_QUERY = compile_anchored(r"(?:api-version=[\w.-]+)?")
_ENDPOINT = compile_later(
    r"(?:/v1/messages|/chat/completions|/responses|/api/(?:chat|generate)|/models/[^/:]+:(?:streamG|g)enerateContent)/*$"
)
_DEPLOYMENT = compile_anchored(
    r"(https?://[\w.-]+\.(?:azure\.(?:com|us|cn)|cognitive\.microsoft\.com)/openai)/deployments/[^/]+", re.IGNORECASE
)
_DURATION = compile_anchored(r"-?(?:\d{1,9}|(?:\d{1,9}(?:\.\d{1,9})?(?:ns|us|ms|h|m|s)){1,6})")
OWN_PATHS = frozenset(
    {
        *("admin", "api", "dashboard", "device", "favicon.ico", "health", "help", "livez", "managed", "metrics"),
        *("oauth", "readyz", "scim", "tour", "user", "v1", "version"),
    }
)
"""First parts of the paths of the proxy."""
_PUBLIC_PATH = compile_anchored(r"(?:/(?!\.)[\w.~-]+)*", re.ASCII)
_HOST_NAME = compile_anchored(r"(?:(?P<name>[\w.-]+)|\[(?P<address>[0-9a-fA-F:.]+)\])(?::\d+)?")
AWS_REGION = compile_anchored(r"[a-z]{2,4}(?:-[a-z]+){1,2}-\d{1,2}")
AZURE_RESOURCE = compile_anchored(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}[A-Za-z0-9]")
_VERTEX_LOCATION = compile_anchored(r"global|us|eu|(?:[a-z]-)?[a-z]+-[a-z]+\d{1,2}")
_PROJECT = compile_anchored(r"(?:[A-Za-z0-9][A-Za-z0-9.-]*:)?[A-Za-z0-9][A-Za-z0-9-]*")
"""Names that become part of the host or path to which credentials are sent, so nothing else is accepted.

Sources: partitions.json of botocore 1.44.5; learn.microsoft.com/azure/templates/microsoft.cognitiveservices/accounts;
docs.cloud.google.com/vertex-ai/docs/general/locations; read 2026-11-25."""
_MAX_SHOWN_CHARACTERS = 60
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_REDIS_SCHEMES = ("redis", "rediss", "unix")
_REDIS_PREFIX = compile_anchored(r"[\w.:-]{1,64}", re.ASCII)
_FILE_PARAMETERS = frozenset(
    {
        *("passfile", "sslcert", "sslcrl", "sslcrldir", "sslkey", "sslkeylogfile", "sslrootcert"),
        *("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"),
    }
)
"""Parameters of a URL that are the path of a file or folder, for libpq (PostgreSQL 18) and redis-py."""
_POSTGRES_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
_MAX_CONTACT_CHARACTERS = 200


def invalid_setting_error(given: FoundSetting, allowed: str, suggestion: str = "") -> ConfigurationError:
    """Return the error for the value of a setting.

    `allowed` is a sentence about the allowed values, `suggestion` a similar valid text or "".
    """
    text = f'{given.variable} is "{redact_and_shorten(given.text)}". {allowed}{given.location}'
    if suggestion and given.origin and not _contains_key(given.text):
        text += f" Did you mean:  {given.format_assignment(suggestion)}"
    return ConfigurationError(text, code="invalid-setting")


def decode_choice(given: FoundSetting, choices: Mapping[str, str], shown_choices: Sequence[str]) -> str:
    """The keys of `choices` are in lower case. The error message lists `shown_choices`."""
    chosen = choices.get(given.text.lower())
    if chosen is None:
        raise invalid_setting_error(
            given, f"Use {join_with_or(shown_choices)}.", find_similar_choice(given.text.lower(), choices)
        )
    return chosen


def choice(*words: str, **aliases: str) -> Callable[[FoundSetting], str]:
    """Return a decoder for one of `words`. The names of `aliases` stand for the words that are their values."""
    return lambda given: decode_choice(given, {word: word for word in words} | aliases, words)


decode_log_level = choice("debug", "info", "warning", "error", warn="warning", critical="error", fatal="error")


def decode_text(given: FoundSetting) -> str:
    return given.text


def decode_items(given: FoundSetting) -> tuple[str, ...]:
    return tuple(dict.fromkeys(given.items))


def decode_wire(given: FoundSetting, wires: Sequence[str]) -> str | None:
    """`auto` is None."""
    wire = choice("auto", *wires)(given)
    return None if wire == "auto" else wire


def decode_provider(given: FoundSetting, providers: Sequence[Provider], table_names: Sequence[str]) -> str:
    """Return the name of a provider, for its name or prefix. `table_names` may be of tables with errors."""
    choices = {row.prefix: row.name for row in providers} | {row.name: row.name for row in providers}
    listed = dict.fromkeys((*(row.name for row in providers if row.offered_to_users), *table_names))
    name = given.text.lower()
    if name not in choices and name not in table_names and (vendor := find_vendor(name, providers)) is not None:
        needs = f"It needs the table [providers.{vendor.name}], BIG_MODEL and SMALL_MODEL."
        raise ConfigurationError(
            f'{given.variable} is "{vendor.name}". {needs}{given.location} '
            f"Remove it, and choose {vendor.name} in:  anthropic-proxy init",
            code="invalid-setting",
        )
    return decode_choice(given, {name: name for name in table_names} | choices, list(listed))


def decode_boolean(given: FoundSetting) -> bool:
    """`true`, `1`, `yes`, `on`, `y`, `t`, and their opposites. Upper and lower case are equal."""
    value = _BOOLEANS.get(given.text.lower())
    if value is None:
        raise invalid_setting_error(
            given, "Use true or false.", find_similar_choice(given.text.lower(), ("true", "false"))
        )
    return value


def decode_seconds(given: FoundSetting) -> float:
    """Finite and above 0."""
    try:
        seconds = float(given.text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise invalid_setting_error(given, "Use a number of seconds above 0, such as 300.")
    return seconds


def decode_go_duration(given: FoundSetting) -> str:
    """The text is in Go's format (`10m`, `1h30m`), or a number of whole seconds, and is returned unchanged.

    A negative duration means no limit.
    """
    if not _DURATION.fullmatch(given.text):
        raise invalid_setting_error(given, "Use seconds, or a time such as 30s, 10m or 24h; -1: no limit.")
    return given.text


def decode_integer(given: FoundSetting, minimum: int, maximum: int, unit: str) -> int:
    """Both limits are included. `unit` is for the error text, such as `tokens`; "": no unit."""
    text = given.text.replace("_", "")
    if not (text.isascii() and text.isdigit() and minimum <= int(text[:20]) <= maximum):
        raise invalid_setting_error(given, f"Use a whole number{unit and ' of ' + unit} from {minimum} to {maximum}.")
    return int(text)


def remove_endpoint(url: str) -> str:
    """Return a base URL for the address of one endpoint, as portals and documentations show it.

    The Responses API of Azure is also at `/openai/v1`, with Chat Completions and without a version.
    """
    address, mark, query = url.partition("?")
    base_url = _ENDPOINT.sub("", address)
    if base_url == address:
        return url
    return f"{base_url}/v1" if base_url.endswith("/openai") and query else f"{base_url}{mark}{query}"


_WITHOUT_SCHEME = compile_anchored(r"[\w.-]+(:\d+)?(/\S*)?")


def decode_url(given: FoundSetting) -> str:
    """Return the URL without a trailing slash and the scheme's own port, its host in lower case.

    The only accepted query is `api-version` of Azure.
    """
    if "{" in given.text:  # `${NAME}` of a shell, or `{resource}` of a documentation
        raise invalid_setting_error(given, "Write the value in place of the braces: an address cannot contain them.")
    allowed = "Use an address that begins with http:// or https://, without password and query."
    try:
        url = urlsplit(given.text)
        port = url.port
    except ValueError:
        raise invalid_setting_error(given, allowed) from None
    if url.scheme.lower() not in {"http", "https"} or not url.hostname or port == 0:
        guess = f"http://{given.text}" if _WITHOUT_SCHEME.fullmatch(given.text) else ""
        raise invalid_setting_error(given, allowed, guess)
    is_plain = _QUERY.fullmatch(url.query) and _HEADER_TEXT.fullmatch(given.text)
    # another host than this pattern allows, such as one with a backslash, is read differently by different libraries
    if not is_plain or url.fragment or not _HOST_NAME.fullmatch(url.netloc):
        raise invalid_setting_error(given, allowed)
    if (base_url := remove_endpoint(given.text)) != given.text:
        text = "The proxy adds the path of each endpoint. Use the address before it."
        raise invalid_setting_error(given, text, base_url)
    scheme = url.scheme.lower()
    host = url.netloc.lower().removesuffix({"http": ":80", "https": ":443"}[scheme])
    address = f"{scheme}://{host}{url.path.rstrip('/')}"
    if not url.query and (resource := _DEPLOYMENT.fullmatch(address)):
        text = "Azure requires  ?api-version=…  at the address of a deployment, and none at the one that ends with /v1."
        raise invalid_setting_error(given, text, f"{resource[1]}/v1")
    return f"{address}?{url.query}" if url.query else address


def is_safe_address(text: str) -> bool:
    """Return True for the address of a server with https, or with http on this machine."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return False
    is_safe = url.scheme == "https" or (url.scheme == "http" and url.hostname in LOCAL_HOSTS)
    is_plain = _HEADER_TEXT.fullmatch(text) and "#" not in text
    return bool(is_safe and is_plain and port != 0 and _HOST_NAME.fullmatch(url.netloc))


def decode_issuer(given: FoundSetting) -> str:
    """The URL of an identity provider, which must be https unless it runs on this machine."""
    url = urlsplit(decode_url(given))
    if url.scheme != "https" and url.hostname not in LOCAL_HOSTS:
        raise invalid_setting_error(given, "Use the https:// URL of the identity provider.")
    return given.text.rstrip("/").removesuffix("/.well-known/openid-configuration")


def decode_public_url(given: FoundSetting) -> str:
    """The path, if there is one, must not be one of the proxy itself, or requests would have two meanings."""
    url = decode_url(given)
    path = urlsplit(url).path
    if urlsplit(url).query or not _PUBLIC_PATH.fullmatch(path) or path[1:].partition("/")[0] in OWN_PATHS:
        raise invalid_setting_error(
            given,
            "Use the address in front of the paths of the proxy, such as https://proxy.example.org, or "
            "https://example.org/proxy behind a reverse proxy that routes by path.",
        )
    return url


def decode_path(given: FoundSetting) -> str:
    """An absolute path. A relative text refers to the folder of the settings files."""
    path = os.path.expanduser(given.text)
    if not os.path.isabs(path) and given.folder is None:
        raise invalid_setting_error(given, "Use an absolute path, because there is no folder for settings files.")
    return os.path.normpath(os.path.join(given.folder or "", path))


def decode_credentials(given: FoundSetting) -> str:
    """The path of a file with credentials of Google, or its contents."""
    return given.text if "{" in given.text else decode_path(given)


def decode_secret(given: FoundSetting) -> Secret:
    return Secret(given.text, f"{given.variable} {given.origin_phrase}")


def decode_sign_in_secrets(given: FoundSetting) -> tuple[Secret, ...]:
    for item in given.items:
        if len(item) < _MIN_SECRET_CHARACTERS:
            raise ConfigurationError(
                f"{given.variable} has a text of {len(item)} characters. Use at least {_MIN_SECRET_CHARACTERS} random "
                f"ones, such as the output of  openssl rand -hex 32.{given.location}",
                code="invalid-key-text",
            )
    if len(given.items) > MAX_SIGN_IN_SECRETS:
        raise ConfigurationError(
            f"{given.variable} lists {len(given.items)} secrets. Use at most {MAX_SIGN_IN_SECRETS}, and remove those "
            f"that were replaced longest ago.{given.location}",
            code="invalid-key-text",
        )
    return decode_keys(given)


def decode_private_key(given: FoundSetting) -> Secret:
    """A private key as PEM or JWK. `\\n` stands for the end of a line, where a text cannot have several lines."""
    text = given.text.replace("\\n", "\n")
    if not (text.startswith("{") or "-----BEGIN " in text):
        raise ConfigurationError(
            f"{given.variable} is no private key. Use a PEM text that begins with -----BEGIN PRIVATE KEY-----, or a "
            f"JWK that begins with {{.{given.location} Its value is not shown, because it may be a key.",
            code="invalid-key-text",
        )
    return Secret(text, f"{given.variable} {given.origin_phrase}")


def decode_notice(given: FoundSetting) -> str:
    if len(given.text) > _MAX_NOTICE_CHARACTERS or not given.text.replace("\n", "").isprintable():
        raise invalid_setting_error(
            given, f"Use at most {_MAX_NOTICE_CHARACTERS} printable characters; it has {len(given.text)}."
        )
    return given.text


def decode_networks(given: FoundSetting) -> tuple[IPv4Network | IPv6Network, ...]:
    networks: list[IPv4Network | IPv6Network] = []
    for item in given.items:
        try:
            networks.append(ip_network(item))
        except ValueError:
            raise invalid_setting_error(
                given, "Use addresses or networks, separated by commas, such as 10.0.0.0/8, 127.0.0.1 or fd00::/8."
            ) from None
    return tuple(networks)


def decode_budgets(given: FoundSetting) -> tuple[Budget, ...]:
    remedy = BUDGET_FORMS
    try:
        budgets = tuple(map(decode_budget, given.items))
        remedy = (
            f"Use each kind of budget once, with more than 0 and at most {MAX_DOLLARS:,} USD, "
            f"or a whole number of tokens up to {MAX_AMOUNT:,}"
        )
        return require_valid_rules(Rules(budgets=budgets)).budgets
    except InvalidRequest:  # its text quotes the value, which may be a secret in the wrong place
        raise invalid_setting_error(given, f"{remedy}.") from None


def decode_contact(given: FoundSetting) -> str:
    if len(given.text) > _MAX_CONTACT_CHARACTERS or not given.text.isprintable():
        raise invalid_setting_error(given, f"Use one line of at most {_MAX_CONTACT_CHARACTERS} printable characters.")
    return given.text


def decode_vertex_location(given: FoundSetting) -> str:
    text = given.text.lower()
    if not _VERTEX_LOCATION.fullmatch(text):
        raise invalid_setting_error(given, "Use a region of Google Cloud such as us-central1, or global, us or eu.")
    return text


def decode_aws_region(given: FoundSetting) -> str:
    text = given.text.lower()
    if not AWS_REGION.fullmatch(text):
        area = (
            f" An area is part of the model: bedrock/{text}.anthropic.claude-opus-5-5."
            if text.isascii() and text.isalpha()
            else ""
        )
        raise invalid_setting_error(given, f"Use a region of AWS such as us-east-1.{area}")
    return text


_AZURE_ADDRESS = compile_anchored(r"(?:https?://)?([\w-]+)\.(?:services\.ai|openai|cognitiveservices)\.azure\.com\b.*")


def decode_resource(given: FoundSetting) -> str:
    if not AZURE_RESOURCE.fullmatch(given.text):
        host = _AZURE_ADDRESS.fullmatch(given.text)
        raise invalid_setting_error(
            given,
            "Use the name of a resource, without its address: 2 to 64 letters, digits and hyphens, no hyphen at its "
            "ends.",
            host[1] if host and AZURE_RESOURCE.fullmatch(host[1]) else "",
        )
    return given.text


def decode_project(given: FoundSetting) -> str:
    if not _PROJECT.fullmatch(given.text):
        raise invalid_setting_error(given, "Use the id of a project: letters, digits, hyphens, periods and colons.")
    return given.text


def decode_listen_host(given: FoundSetting) -> str:
    if "/" in given.text or " " in given.text or not (given.text.isprintable() and given.text.isascii()):
        raise invalid_setting_error(given, "Use an address to listen on, such as 127.0.0.1 or 0.0.0.0.")
    return given.text.strip("[]")


def decode_port(given: FoundSetting) -> int:
    return decode_integer(given, 1, 65_535, "")


def decode_database_url(given: FoundSetting) -> Secret:
    """Return the address of a SQLite or PostgreSQL database, or `off`. It may contain a password, so it is a secret."""
    scheme, separator, place = given.text.partition("://")
    if given.text.lower() == "off":
        return Secret("off")
    is_sqlite = scheme == "sqlite" and place.startswith("/") and len(place) > 1
    if not separator or not (is_sqlite or (scheme in _POSTGRES_SCHEMES and place)):
        raise invalid_setting_error(
            given, "Use sqlite:///path/of/a/file, postgresql://user:password@host/database, or off."
        )
    text = given.text
    if is_sqlite:
        name, question_mark, options = place.removeprefix("/").partition("?")
        text = f"sqlite:///{decode_path(structs.replace(given, text=name))}{question_mark}{options}"
    else:
        _require_absolute_files(given)
        try:
            parse_postgres_url(text)
        except ValueError:
            head = place.partition("?")[0]  # of a malformed URL, in which `@` may be missing
            shown = f"{redact_and_shorten(head.partition(':')[0])}:…"
            if "@" in head:
                shown = f"…@{redact_and_shorten(head.rpartition('@')[2])}"
            raise ConfigurationError(
                f'{given.variable} is "{scheme}://{shown}". Use '
                "postgresql://user:password@host:5432/database, with @ in the user or the password as %40."
                f"{given.location}",
                code="invalid-setting",
            ) from None
    return Secret(text, f"{given.variable} {given.origin_phrase}")


def decode_redis_url(given: FoundSetting) -> Secret:
    """Return the address of a Redis or Valkey server. It may contain a password, so it is a secret."""
    try:
        url = urlsplit(given.text)
        is_valid = url.path.startswith("/") if url.scheme == "unix" else bool(url.hostname) and url.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or url.scheme not in _REDIS_SCHEMES:
        raise invalid_setting_error(
            given, "Use redis://user:password@host:6379/0, rediss://… for TLS, or unix:///path/of/a/socket."
        )
    _require_absolute_files(given)
    return Secret(given.text, f"{given.variable} {given.origin_phrase}")


_PARAMETER_START = compile_later("[?&]")


def _require_absolute_files(given: FoundSetting) -> None:
    # a password may contain `?`, so each one may begin the query
    for parameter in _PARAMETER_START.split(given.text)[1:]:
        name, value = map(unquote_plus, parameter.partition("=")[::2])
        if name not in _FILE_PARAMETERS or not value or os.path.isabs(value):
            continue
        if (name, value) == ("sslrootcert", "system"):  # the certificate authorities of the system
            continue
        raise ConfigurationError(
            f'{given.variable} has the parameter {name}="{redact_and_shorten(value)}". Use an absolute path, because '
            f"the library would search a relative one in the current directory.{given.location}",
            code="relative-file-in-url",
        )


def decode_redis_prefix(given: FoundSetting) -> str:
    if not _REDIS_PREFIX.fullmatch(given.text):
        raise invalid_setting_error(given, "Use at most 64 letters, digits and the characters - _ . :")
    return given.text


def is_key_text(text: str) -> bool:
    return _HEADER_TEXT.fullmatch(text) is not None


def decode_keys(given: FoundSetting) -> tuple[Secret, ...]:
    """Return the keys in order, without duplicates."""
    for item in given.items:
        if not is_key_text(item):
            raise ConfigurationError(
                f"{given.variable} contains a character that is invalid in a key: a space, a line break or a "
                "letter outside ASCII. "
                f"Use one key, or several separated by commas.{given.location}",
                code="invalid-key-text",
            )
    origin = f"{given.variable} {given.origin_phrase}"
    return tuple(Secret(item, origin) for item in dict.fromkeys(given.items))


def decode_model(given: FoundSetting) -> str:
    """Return a model name with or without a provider prefix: `openai/gpt-4.1`, `gpt-4.1`."""
    return _model(given, given.text)


def decode_models(given: FoundSetting) -> tuple[str, ...]:
    return tuple(_model(given, item) for item in dict.fromkeys(given.items))


def decode_hosts(given: FoundSetting) -> tuple[str, ...]:
    """Return the hosts in lower case, without ports and brackets."""
    names = [_HOST_NAME.fullmatch(item) for item in given.items]
    if not all(names):
        raise invalid_setting_error(
            given, "Use host names separated by commas, such as proxy.example.org, without http:// and path."
        )
    return tuple(dict.fromkeys((name["name"] or name["address"]).lower() for name in names if name))


def _model(given: FoundSetting, name: str) -> str:
    if not is_model_name(name):
        raise invalid_setting_error(
            given, "Use the name of a model, with or without the prefix of a provider, such as openai/gpt-4.1."
        )
    return name


def _contains_key(text: str) -> bool:
    return text.startswith(KEY_BEGINNINGS) or _SECRET_PATTERN.search(text) is not None


def is_variable_name(text: str) -> bool:
    """Return False also for a key that a user may have written in place of a name: `gsk_…`, random characters."""
    is_random = (
        len(text) >= _MIN_KEY_CHARACTERS
        and any(character.isdigit() for character in text)
        and ("_" not in text or not (text.isupper() or text.islower()))
    )
    return _VARIABLE_NAME.fullmatch(text) is not None and not is_random and not text.startswith(KEY_BEGINNINGS)


_QUERY_START = compile_later(r"[?#].")


def redact_and_shorten(text: str, max_characters: int = _MAX_SHOWN_CHARACTERS) -> str:
    """Return a text for a message, with secrets masked, unprintable characters escaped, and a long text shortened."""
    text = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
    if "://" in text and (query := _QUERY_START.search(text)):  # a query may hold a key under any name
        text = f"{text[: query.start() + 1]}…"
    if _contains_key(text):
        return repr(Secret(text.rpartition("@")[2] if "@" in text else text))
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"


SECRET_NAME = compile_later(r"_(?:KEY|TOKEN|SECRET|PASSWORD|HEADERS|BEARER_TOKEN_[A-Z]+)$")
_USER_INFO = compile_later(r"(?<=://)[^/?#\s]*(?=@)")
_SECRET_PARAMETER = compile_later(
    r"([?&](?=[^=&#?\s]*(?:pass|pwd|secret|token|key))[^=&#?\s]*=)[^&#\s]+", re.IGNORECASE
)
"""Pattern of a URL parameter that contains a credential: `?sslpassword=…`."""
_REFERENCE = compile_anchored(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")


def is_secret_variable(name: str) -> bool:
    return SECRET_NAME.search(name) is not None


def mask_setting(name: str, text: str) -> str:
    """The last four characters of a key remain. User names and passwords in a URL are masked too."""
    if _REFERENCE.fullmatch(text):
        return text
    if is_secret_variable(name):
        return ", ".join(str(Secret(item.strip(" '\""))) for item in text.split(",") if item.strip())
    if "{" in text:
        return str(Secret(text))
    return _SECRET_PARAMETER.sub(r"\1…", _USER_INFO.sub("…", text))


def mask_env_lines(text: str) -> str:
    """Lines of another form than `NAME=value`, such as those of TOML, are unchanged."""
    lines = []
    for line in text.split("\n"):
        name, _, value = line.partition("=")
        lines.append(f"{name}={mask_setting(name, value)}" if value and name.isidentifier() else line)
    return "\n".join(lines)
