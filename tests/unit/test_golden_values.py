"""Functions of values: `golden_texts/values/<name>.txt`, with arguments and results as Python literals."""

import ast
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from anthropic_proxy.cli.code import is_conversation
from anthropic_proxy.cli.command_line import read_serve_options
from anthropic_proxy.cli.init.answers import name_host, read_address
from anthropic_proxy.console import formats
from anthropic_proxy.console.client_models import find_tier_models, list_limit_variables
from anthropic_proxy.console.dashboard.conversation import list_reply_blocks
from anthropic_proxy.console.dashboard.web import accepts_gzip
from anthropic_proxy.engine.exchange.tool_loop.known_urls import KnownUrls
from anthropic_proxy.engine.messages.models import Message, guess_model
from anthropic_proxy.engine.messages.purpose import read_tool_times
from anthropic_proxy.engine.messages.reply_schema import ReplySchema
from anthropic_proxy.engine.messages.server_blocks import is_url_allowed
from anthropic_proxy.engine.messages.summary import extract_summary
from anthropic_proxy.engine.platforms.os_errors import clean_error_text
from anthropic_proxy.engine.platforms.shells import find_shell, format_set_command
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.call_options import merge_body
from anthropic_proxy.engine.service_tiers import normalize_region, normalize_service_tier
from anthropic_proxy.engine.text_encodings import find_charset
from anthropic_proxy.engine.trace_context import read_trace_context
from anthropic_proxy.engine.wires.reply_ends import find_finish_kind
from anthropic_proxy.engine.wires.tool_call_repair import OfferedTools
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.money import format_cost
from anthropic_proxy.gateway.platforms.processes import windows_system_program
from anthropic_proxy.gateway.platforms.sockets import format_url
from anthropic_proxy.gateway.server.web_page import prefers_html
from anthropic_proxy.gateway.settings import find_listen_port_option, load_settings
from anthropic_proxy.gateway.settings.database_address import parse_postgres_url
from anthropic_proxy.gateway.settings.files import format_env_line, update_env_text
from anthropic_proxy.gateway.settings.key_rules import decode_budget
from anthropic_proxy.gateway.settings.values import mask_setting
from anthropic_proxy.gateway.telemetry.log.columns import wrap_text
from anthropic_proxy.plugins import RouteRequest
from anthropic_proxy.secrets import redact_key_patterns
from tests.support.golden_texts import Check, golden_files
from tests.support.tool_call_forms import new_call

TOOLS = [{"name": name, "input_schema": {}} for name in ("Read", "mcp__files__list_all", "web_search", "Web-Search")]


def show_trace(parent: str, state: str) -> tuple[str, str, bool, str] | None:
    found = read_trace_context({"traceparent": parent, **({"tracestate": state} if state else {})})
    return (found.trace_id, found.parent_id, found.is_sampled, found.state) if found else None


def show_exporters(variables: dict[str, str]) -> tuple[Any, bool, Any]:
    settings = load_settings(variables, PROVIDERS, env_file=None)
    return settings.trace_exporters, settings.has_traces(), settings.warnings


def show_budget(text: str) -> str:
    try:
        budget = decode_budget(text)
        assert decode_budget(budget.encoded_text) == budget
        return budget.describe()
    except InvalidRequest as error:
        return error.message


def show_summary(beginning: str, repeated: str = "", times: int = 1, behind: str = "") -> str:
    end = (repeated * times).strip()
    found = extract_summary(beginning + end + behind)
    return found.removesuffix(end) + "…" if end and found else found


def extract_json(schema: dict[str, Any], text: str) -> tuple[str, str] | str:
    try:
        return ReplySchema(json.dumps(schema).encode()).extract_json(text)
    except InvalidRequest as error:
        return error.message


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "accepts_gzip": lambda text: accepts_gzip(RouteRequest(path="/dashboard", headers={"accept-encoding": text})),
    "budget": show_budget,
    "clean_error_text": clean_error_text,
    "color": lambda environ: load_settings(environ, PROVIDERS, env_file=None).color,
    "extract_json": extract_json,
    "extract_summary": show_summary,
    "find_charset": find_charset,
    "find_shell": lambda path: find_shell({"SHELL": path}),
    "find_tool_name": lambda name: OfferedTools(new_call(tools=TOOLS)).find_tool_name(name),
    "find_finish_kind": find_finish_kind,
    "format_cost": format_cost,
    "format_cost_with_unknown": formats.cost_with_unknown,
    "format_percent": formats.percent,
    "format_seconds": formats.seconds,
    "format_set_command": lambda shell: format_set_command(shell, "NAME", "it's a \\key"),
    "format_short_count": formats.short_count,
    "format_url": lambda host: format_url(host, 8082),
    "guess_model": guess_model,
    "is_conversation": is_conversation,
    "is_url_allowed": lambda entry, url: (is_url_allowed(url, [entry], []), is_url_allowed(url, [], [entry])),
    "knows_url": lambda url, content: KnownUrls([Message("user", content)]).contains(url),
    "limit_variables": lambda listing: list_limit_variables(find_tier_models(listing)),
    "list_reply_blocks": list_reply_blocks,
    "listen_port": lambda words, environ: find_listen_port_option(words.split(), environ),
    "mask_setting": mask_setting,
    "merge_body": merge_body,
    "name_host": name_host,
    "normalize_region": normalize_region,
    "normalize_service_tier": normalize_service_tier,
    "other_command_line": read_serve_options,
    "postgres_options": lambda url: parse_postgres_url(url).list_options(),
    "prefers_html": prefers_html,
    "read_tool_times": lambda text: read_tool_times({"x-claude-code-prev-tool-durations": text}),
    "read_address": lambda text: read_address("base_url", text),
    "redact_key_patterns": redact_key_patterns,
    "trace_context": show_trace,
    "trace_exporters": show_exporters,
    "update_env_text": lambda text, name, value: update_env_text(
        text, name, format_env_line(name, value) if value else ""
    ),
    "windows_system_program": lambda environ: windows_system_program("schtasks.exe", environ),
    "wrap_text": wrap_text,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values(name: str, golden: Check) -> None:
    golden(f"values/{name}", lambda given: repr(FUNCTIONS[name](*ast.literal_eval(f"({given},)"))))


def test_every_file_has_its_function() -> None:
    assert golden_files("values") == [f"values/{name}" for name in sorted(FUNCTIONS)]
