"""The package obeys the rules of `architecture.py`, and each rule is shown to fail where it should."""

import re

import pytest

from tests.architecture import PACKAGE, RULES, Module, Rule, modules_of_the_package
from tests.support.paths import ROOT, TESTS

MODULES = modules_of_the_package()
WITHOUT_COUNTERPART = {
    "exchange/test_interrupted_replies": "decoders, filters and the tool loop flush their buffers when a stream breaks",
    "exchange/test_request_release": "memory of a request during its stream, over all packages",
    "routing/health/test_limits": "circuit breakers, retry budget and queue together, as a client sees them",
    "server/http1/test_pipelining": "parsing, intake and cycle share the limits of pipelined requests",
    "stores/test_contract": "the same results of every store",
    "test_concurrent_imports": "loading of a library by two threads, for every module that uses it",
    "test_linear_cost": "cost by length of the input, for every reader of text",
    "test_messages_to_users": "commands and settings that messages of any module name",
    "test_operation_counts": "calls and bytes per request and event, over all packages",
    "test_socket_read_counts": "calls per socket read, of the server and of the HTTP client",
    "upstream/http/test_unreliable_server": "random failures of a server, for the HTTP client as a whole",
    "wire/test_cache_prefix": "stability of the request prefix on every wire",
    "wire/test_golden": "the cases of `tests/golden` on every wire",
    "wire/test_golden_sessions": "the recorded sessions of `tests/golden`",
    "wire/test_parallel_calls": "one tool call per reply, on every wire",
    "wire/test_schema_cost": "cost of schemas, over all functions that read them",
}
"""Test modules of `tests/unit/` for behavior that no single module or package has."""
NAMES = {rule.check.__name__: rule for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.check.__name__)
def test_the_package_obeys(rule: Rule) -> None:
    breaches = [
        f"  {module.name or '__init__'}, line {line}: {what}" for module in MODULES for line, what in rule.check(module)
    ]
    assert not breaches, "\n".join([rule.reason, *breaches])


TWO_NAMES = '__all__ = ["WIRE", "Dialect"]'

BAD = [
    ("imports_are_allowed", "wire.gemini", "from anthropic_proxy.settings import Settings"),
    ("imports_are_allowed", "wire.gemini", "from anthropic_proxy.wire import openai_chat"),
    ("imports_are_allowed", "wire.gemini", "from . import openai_chat"),
    ("imports_are_allowed", "wire.gemini.stream", "from ..openai_chat import Dialect"),
    ("imports_are_allowed", "messages.writer", "def feed():\n    import anthropic_proxy.routing.router"),
    ("imports_are_allowed", "messages.fidelity", "from anthropic_proxy.messages.writer import MessageWriter"),
    ("imports_are_allowed", "upstream.http", "from anthropic_proxy.messages.deltas import Text"),
    ("imports_are_allowed", "server.auth", "from anthropic_proxy.routing import providers"),
    ("imports_are_allowed", "plugins", "from anthropic_proxy import routing"),
    ("imports_are_allowed", "errors", "from anthropic_proxy.plugins import Client"),
    ("imports_are_allowed", "", "from anthropic_proxy.routing import router"),
    ("imports_are_allowed", "dashboard.configuration", "from anthropic_proxy.cli.output import Output"),
    ("imports_are_allowed", "batches", ""),
    ("only_upstream_opens_sockets", "routing.catalog", "import aiohttp"),
    ("only_upstream_opens_sockets", "exchange.pipeline", "import socket"),
    ("only_upstream_opens_sockets", "cli.doctor", "from urllib.request import urlopen"),
    ("only_upstream_opens_sockets", "cli.doctor", "from urllib import request"),
    (
        "only_upstream_opens_sockets",
        "exchange.pipeline",
        "async def f():\n    await asyncio.open_connection('::1', 80)",
    ),
    ("only_platforms_calls_the_operating_system", "workers.supervisor", "from ctypes import Array"),
    ("only_platforms_calls_the_operating_system", "server.process", "loop.add_signal_handler(1, stop)"),
    ("only_settings_reads_the_environment", "app", "import os\nx = os.environ['HOME']"),
    ("only_settings_reads_the_environment", "app", "import os\nx = os.getenv('HOME')"),
    ("only_settings_reads_the_environment", "app", "import os\nload_settings(dict(os.environ), ())"),
    ("only_settings_reads_the_environment", "app", "from os import environ"),
    ("only_settings_reads_the_environment", "cli", "import dotenv"),
    ("only_settings_reads_the_environment", "upstream.http", "import urllib.request\nx = urllib.request.getproxies()"),
    ("only_settings_reads_the_environment", "upstream.http", "from urllib.request import proxy_bypass"),
    ("only_settings_reads_the_environment", "upstream.http", "session = ClientSession(trust_env=True)"),
    ("only_settings_reads_the_environment", "cli", "import os\nx = os.path.expandvars('$HOME')"),
    ("one_registry_finds_providers", "startup", "for row in PROVIDERS: pass"),
    ("one_registry_finds_providers", "services", "row = PROVIDERS.find('openai')"),
    ("wires_export_two_names", "wire.new", '__all__ = ["WIRE"]'),
    ("wires_export_two_names", "wire.new", TWO_NAMES.replace("]", ', "encode_request"]')),
    ("wires_name_no_provider_and_no_model", "wire.chat", "if dialect.name == 'groq': pass"),
    ("wires_name_no_provider_and_no_model", "wire.chat", "PATTERN = 'gpt-5*'"),
    ("wires_name_no_provider_and_no_model", "wire.chat", "x = call.model == other"),
    ("wires_name_no_provider_and_no_model", "wire.chat", "x = call.model.startswith(prefix)"),
    ("wires_name_no_provider_and_no_model", "wire.chat", "x = call.provider in names"),
    ("messages_and_wires_are_deterministic", "messages.writer", "from time import monotonic"),
    ("messages_and_wires_are_deterministic", "wire.chat", "import uuid"),
    ("libraries_are_loaded_before_their_parts", "dashboard.pages", "from sqlalchemy.exc import SQLAlchemyError"),
    ("libraries_are_loaded_before_their_parts", "dashboard.pages", "import sqlalchemy.exc\nimport sqlalchemy"),
    ("libraries_are_loaded_before_their_parts", "upstream.google_auth", "from google.auth.transport import requests"),
    (
        "libraries_are_loaded_before_their_parts",
        "ledger.prices",
        "def f():\n    import genai_prices\ndef g():\n    import genai_prices.types",
    ),
    ("packages_of_threads_import_none_of_their_modules", "access/", "from anthropic_proxy.access.plugin import f"),
    ("packages_of_threads_import_none_of_their_modules", "dashboard.oidc/", "from . import client"),
    ("modules_are_short", "settings", "x = 1\n" * 351),
    ("functions_are_short", "settings", "def f():\n" + "    x = 1\n" * 40),
    ("functions_are_short", "settings", "class A:\n    async def f(self):\n" + "        x = 1\n" * 40),
    ("module_names_are_specific", "wire.utils", ""),
    ("module_names_are_specific", "wire.helpers.text", ""),
    ("failures_are_caught_by_name", "wire.chat", "try:\n    f()\nexcept Exception as error:\n    pass"),
    ("failures_are_caught_by_name", "wire.chat", "try:\n    f()\nexcept (KeyError, BaseException):\n    pass"),
    ("failures_are_caught_by_name", "wire.chat", "try:\n    f()\nexcept:\n    pass"),
    ("public_names_have_docstrings", "settings", "x = 1"),
    ("public_names_have_docstrings", "settings", '"""S."""\ndef load(): ...'),
    ("public_names_have_docstrings", "settings", '"""S."""\nclass A:\n    """A."""\n    def load(self): ...'),
]

GOOD = [
    ("imports_are_allowed", "wire.gemini", "from anthropic_proxy.messages import deltas\nimport msgspec"),
    ("imports_are_allowed", "wire.gemini.stream", "from anthropic_proxy.wire.gemini.request import Dialect"),
    ("imports_are_allowed", "wire.gemini", "from anthropic_proxy.errors import UpstreamError"),
    ("imports_are_allowed", "routing.providers", "from anthropic_proxy.wire import openai_chat"),
    ("imports_are_allowed", "app", "from anthropic_proxy.server import endpoints"),
    ("only_upstream_opens_sockets", "upstream.http", "import aiohttp"),
    ("only_upstream_opens_sockets", "server.listen", "import socket"),
    ("only_platforms_calls_the_operating_system", "platforms.fd_limits", "import resource"),
    ("only_upstream_opens_sockets", "routing.router", "from urllib.parse import urlsplit"),
    ("only_settings_reads_the_environment", "settings", "import os\nx = os.environ"),
    ("only_settings_reads_the_environment", "app", "import os\nsettings = load_settings(os.environ, PROVIDERS)"),
    ("one_registry_finds_providers", "cli", "settings = load_settings(environ, PROVIDERS, env_file=None)"),
    ("one_registry_finds_providers", "routing.providers", "rows = list(PROVIDERS)"),
    ("wires_export_two_names", "wire.new", TWO_NAMES),
    ("wires_export_two_names", "wire.json_schema", ""),
    ("wires_export_two_names", "wire.new.request", ""),
    ("wires_name_no_provider_and_no_model", "wire.chat", '"""Groq says otherwise."""\nx = "tool_calls"'),
    ("wires_name_no_provider_and_no_model", "wire.chat", "class D:\n    quirk: bool = False\n    '''True for groq.'''"),
    ("wires_name_no_provider_and_no_model", "routing.providers", "name = 'groq'"),
    ("messages_and_wires_are_deterministic", "exchange.pipeline", "from time import monotonic"),
    ("libraries_are_loaded_before_their_parts", "dashboard.pages", "from sqlalchemy import exc"),
    (
        "libraries_are_loaded_before_their_parts",
        "ledger.prices",
        "import genai_prices\ndef f():\n    from genai_prices.types import ModelPrice",
    ),
    (
        "libraries_are_loaded_before_their_parts",
        "ledger.prices",
        "if TYPE_CHECKING:\n    from genai_prices.types import ModelPrice",
    ),
    (
        "packages_of_threads_import_none_of_their_modules",
        "dashboard/",
        "def f():\n    from anthropic_proxy.dashboard.routes import Dashboard\n    return Dashboard()",
    ),
    ("modules_are_short", "settings", "x = 1\n" * 350),
    ("functions_are_short", "settings", "def f():\n" + "    x = 1\n" * 39),
    ("failures_are_caught_by_name", "exchange.pipeline", "try:\n    f()\nexcept Exception:\n    pass"),
    ("failures_are_caught_by_name", "wire.chat", "try:\n    f()\nexcept BaseException:\n    close()\n    raise"),
    ("failures_are_caught_by_name", "wire.chat", "try:\n    f()\nexcept KeyError:\n    pass"),
    ("public_names_have_docstrings", "settings", '"""S."""\nclass _A: ...\ndef _f(): ...'),
]


def module(name: str, source: str) -> Module:
    """Return a module of the samples. A name with `/` at its end is a package."""
    return Module(name.removesuffix("/"), source, name.endswith("/"))


@pytest.mark.parametrize(("rule", "name", "source"), BAD)
def test_a_breach_is_found(rule: str, name: str, source: str) -> None:
    assert list(NAMES[rule].check(module(name, source)))


@pytest.mark.parametrize(("rule", "name", "source"), GOOD)
def test_what_is_allowed_passes(rule: str, name: str, source: str) -> None:
    assert not list(NAMES[rule].check(module(name, source)))


def test_every_rule_has_a_sample_of_both_kinds_and_a_reason() -> None:
    assert {rule for rule, _, _ in BAD} == set(NAMES)
    assert {rule for rule, _, _ in GOOD} >= set(NAMES) - {"module_names_are_specific"}
    assert all(len(rule.reason) > 40 for rule in RULES)


def test_test_modules_share_code_in_support_modules() -> None:
    """An import of another test module runs its fixtures and parameters, and ties two subjects together."""
    found = [
        f"{path.relative_to(TESTS)}: {line}"
        for path in TESTS.rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if re.match(r"\s*(from|import) tests\.(\w+\.)*test_", line)
    ]
    assert found == []


def test_unit_tests_mirror_the_package() -> None:
    """A reader finds the tests of a module by its path. Rename a test module together with its subject."""
    unpaired = []
    for path in (TESTS / "unit").rglob("test_*.py"):
        name = path.relative_to(TESTS / "unit").with_suffix("").as_posix()
        subject = name.replace("test_", "")
        tested = TESTS / subject if subject.startswith("support/") else ROOT / PACKAGE / subject
        if not tested.is_dir() and not tested.with_suffix(".py").is_file():
            unpaired.append(name)
    assert sorted(unpaired) == sorted(WITHOUT_COUNTERPART)
