"""Functions of values: `golden_texts/values/<name>.txt`, with arguments and results as Python literals."""

import ast
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from anthropic_proxy.cli.code import find_shell, format_set_command
from anthropic_proxy.cli.init import read_address
from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.web import accepts_gzip
from anthropic_proxy.console.ledger.costs import read_search_count
from anthropic_proxy.console.ledger.database import parse_postgres_url
from anthropic_proxy.engine.messages.models import guess_model
from anthropic_proxy.engine.platforms.os_errors import clean_error_text
from anthropic_proxy.engine.providers.call_options import merge_body
from anthropic_proxy.engine.upstream.web_fetch import find_charset_parameter
from anthropic_proxy.engine.wires.reply_ends import find_worst_kind
from anthropic_proxy.gateway.platforms.processes import windows_system_program
from anthropic_proxy.gateway.server.endpoints import prefers_html
from anthropic_proxy.gateway.server.listener import format_url
from anthropic_proxy.gateway.settings import find_listen_port_option, normalize_service_tier
from anthropic_proxy.gateway.settings.values import mask_setting
from anthropic_proxy.plugins import RouteRequest
from anthropic_proxy.secrets import redact_key_patterns
from tests.support.golden_texts import Check, golden_files

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "accepts_gzip": lambda text: accepts_gzip(RouteRequest(path="/dashboard", headers={"accept-encoding": text})),
    "clean_error_text": clean_error_text,
    "find_charset_parameter": find_charset_parameter,
    "find_shell": lambda path: find_shell({"SHELL": path}),
    "find_worst_kind": find_worst_kind,
    "format_cost_with_unknown": formats.cost_with_unknown,
    "format_money": formats.money,
    "format_percent": formats.percent,
    "format_seconds": formats.seconds,
    "format_set_command": lambda shell: format_set_command(shell, "NAME", "it's a \\key"),
    "format_short_count": formats.short_count,
    "format_url": lambda host: format_url(host, 8082),
    "guess_model": guess_model,
    "listen_port": lambda words, environ: find_listen_port_option(words.split(), environ),
    "mask_setting": mask_setting,
    "merge_body": merge_body,
    "normalize_service_tier": normalize_service_tier,
    "postgres_options": lambda url: parse_postgres_url(url).list_options(),
    "prefers_html": prefers_html,
    "read_address": lambda text: read_address("base_url", text),
    "read_search_count": read_search_count,
    "redact_key_patterns": redact_key_patterns,
    "windows_system_program": lambda environ: windows_system_program("schtasks.exe", environ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values(name: str, golden: Check) -> None:
    golden(f"values/{name}", lambda given: repr(FUNCTIONS[name](*ast.literal_eval(f"({given},)"))))


def test_every_file_has_its_function() -> None:
    assert golden_files("values") == [f"values/{name}" for name in sorted(FUNCTIONS)]
