"""Finds the configuration of another proxy, decodes JSON5, YAML or lines of `.env`, and chooses its reader."""

import json
import re
from pathlib import Path
from typing import Any

from anthropic_proxy.cli.importing.env_file import has_provider_variable, read_env_file
from anthropic_proxy.cli.importing.litellm_config import LITELLM_SECTIONS, read_litellm_config
from anthropic_proxy.cli.importing.plan import ImportPlan
from anthropic_proxy.cli.importing.router_config import is_router_database, read_router_config, read_router_database
from anthropic_proxy.cli.importing.yaml_file import decode_yaml
from anthropic_proxy.cli.output import describe_input, read_input
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.platforms.files import MAX_CONFIG_BYTES
from anthropic_proxy.errors import ConfigurationError, join_with_or
from anthropic_proxy.gateway.settings import copy_environment
from anthropic_proxy.gateway.settings.files import decode_env_text, find_invalid_env_line
from anthropic_proxy.gateway.settings.values import redact_and_shorten

ROUTER_FOLDER = ".claude-code-router"
_MODEL_LIST = compile_later(r"^model_list:", re.MULTILINE)
_SURROGATE = compile_later("[\ud800-\udfff]")
_MAX_ENTRIES = 10_000
"""Maximum number of entries of a list or an object: 10,000 servers take seconds, and no person wrote more."""
_JSON5_TOKEN = compile_later(
    r"""
    (?P<comment>//[^\n]*+|/\*(?:[^*]++|\*(?!/))*(?:\*/)?)
    | (?P<comma>,)(?=(?:\s|//[^\n]*+|/\*(?:[^*]++|\*(?!/))*\*/)*[}\]])
    | "(?:[^"\\\n]|\\.)*+"?
    | '(?P<unclosed>(?:[^'\\\n]|\\.)*+)(?P<single>')?
    | (?P<name>(?<![\w$.+-])[A-Za-z_$][\w$]*+)(?=\s*+:)
    """,
    re.DOTALL | re.VERBOSE,
)
"""What JSON5 has and JSON has not, and texts, in which nothing of it counts."""
_JSON_PROBLEMS = {
    "Expecting ',' delimiter": "a comma is missing in it or above",
    "Expecting ':' delimiter": "a colon is missing",
    "Expecting value": "a value is missing",
    "Expecting property name enclosed in double quotes": "a name is missing",
    "Invalid control character at": "a text has no closing quote",
    "Unterminated string starting at": "a text has no closing quote",
    "Extra data": "the object ends in it or above",
}
"""Error of `json` → text for the user."""
_UNESCAPED_QUOTE = compile_later(r"""\\(')|(\\.)|(")""", re.DOTALL)
_SUPPORTED = (
    "Supported are config.json and config.sqlite of claude-code-router, config.yaml of LiteLLM's proxy, and .env of an "
    "earlier proxy."
)


def find_router_file() -> Path:
    """Return the configuration of claude-code-router that was written last. Raises `ConfigurationError`."""
    environ = copy_environment()
    folders = [Path.home() / ROUTER_FOLDER]
    if appdata := environ.get("APPDATA"):
        folders.append(Path(appdata) / "claude-code-router")
    files = [folder / name for folder in folders for name in ("config.json", "config.sqlite")]
    present = [file for file in files if file.is_file()]
    if not present:
        raise ConfigurationError(
            f"FILE is missing, and there is no configuration of claude-code-router in {folders[0]}. {_SUPPORTED}",
            code="import-file",
        )
    return max(present, key=lambda file: file.stat().st_mtime)


def read_plan(file: Path) -> ImportPlan:
    """Raises `ConfigurationError` for a file that cannot be read, and for an unknown format."""
    if is_router_database(file):
        config: Any = read_router_database(file, MAX_CONFIG_BYTES)
        _require_bounded_text(config, describe_input(file))
        return read_router_config(config)
    content = read_input(file, MAX_CONFIG_BYTES)
    name = describe_input(file)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{name} is not UTF-8 text: byte {error.start} is invalid.", code="import-file"
        ) from None
    is_json = text.lstrip().startswith(("{", "//", "/*"))
    if not is_json and not name.lower().endswith((".yaml", ".yml")) and not _MODEL_LIST.search(text):
        if line := find_invalid_env_line(text):
            raise _reject(name, f"it is no JSON or YAML, and line {line} does not set a variable")
        variables = decode_env_text(text)
        if not has_provider_variable(variables):
            raise _reject(name, "it sets no key, address or model of a provider, such as OPENAI_API_KEY or BIG_MODEL")
        return read_env_file(variables)
    try:
        config = _decode_json5(text, name) if is_json else decode_yaml(text, name)
    except RecursionError:
        raise _reject(name, "it nests lists or objects too deeply") from None
    except ValueError:  # Python's limit of digits
        raise _reject(name, "a number has too many digits") from None
    _require_bounded_text(config, name)
    sections = {*config} if isinstance(config, dict) else set[str]()
    if is_json:
        if {"Providers", "providers", "Router", "router"} & sections:
            return read_router_config(config)
        raise _reject(name, "it is JSON without Providers and Router")
    if LITELLM_SECTIONS & sections:
        return read_litellm_config(config)
    raise _reject(name, f"it is YAML without {join_with_or(sorted(LITELLM_SECTIONS))}")


def _decode_json5(text: str, name: str) -> Any:
    """Decode JSON with comments, trailing commas, names without quotes and single quotes, as the other proxy does.

    Raises `ConfigurationError` with the line of a syntax error.
    """

    def to_json(token: re.Match[str]) -> str:
        if token.lastgroup in {"comment", "comma"}:
            return "\n" * token[0].count("\n")  # the line of an error stays the same
        if token.lastgroup in {None, "unclosed"}:
            return token[0]
        text = token["name"] or token["unclosed"]
        escaped = _UNESCAPED_QUOTE.sub(lambda part: part[1] or part[2] or '\\"', text)
        return f'"{escaped}"'

    document = _JSON5_TOKEN.sub(to_json, text).rstrip()
    try:
        return json.loads(document)
    except json.JSONDecodeError as error:
        is_cut = error.pos >= len(document)
        problem = "the file ends too early" if is_cut else _JSON_PROBLEMS.get(error.msg, "this is no JSON")
        raise ConfigurationError(
            f"{name} is not valid JSON: line {error.lineno}: {problem}.", code="import-file"
        ) from None


def _require_bounded_text(config: object, name: str) -> None:
    """Raises `ConfigurationError` for a configuration with a list or an object of too many entries, and for a text with
    half of a surrogate pair, which no file can have.
    """
    waiting: list[tuple[str, object]] = [("", config)]
    while waiting:
        place, value = waiting.pop()
        problem = ""
        if isinstance(value, str) and not value.isascii() and _SURROGATE.search(value):
            problem = "has half of a surrogate pair, which is no character"
        elif isinstance(value, dict | list) and len(value) > _MAX_ENTRIES:
            problem = f"has {len(value):,} entries, and the maximum is {_MAX_ENTRIES:,}"
        if problem:
            what = redact_and_shorten(place.removeprefix(".")) or "it"
            raise ConfigurationError(f"{name} cannot be imported: {what} {problem}.", code="import-file")
        if isinstance(value, dict):
            waiting += ((place, key) for key in value)
            waiting += ((f"{place}.{key}", item) for key, item in value.items())
        elif isinstance(value, list):
            waiting += ((f"{place}[{index}]", item) for index, item in enumerate(value))


def _reject(name: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name} is no configuration of a supported proxy: {reason}. {_SUPPORTED}", code="import-file"
    )
