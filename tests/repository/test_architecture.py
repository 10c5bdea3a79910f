"""The package obeys the rules of `architecture.py`, and each rule is shown to fail where it should."""

import re

import pytest

from tests.architecture import RULES, Module, Rule, modules_of_the_package
from tests.support.paths import TESTS

MODULES = modules_of_the_package()
NAMES = {rule.check.__name__: rule for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.check.__name__)
def test_the_package_obeys(rule: Rule) -> None:
    breaches = [
        f"  {module.name or '__init__'}, line {line}: {what}" for module in MODULES for line, what in rule.check(module)
    ]
    assert not breaches, "\n".join([rule.reason, *breaches])


BAD = [
    ("only_upstream_opens_sockets", "routing.catalog", "import aiohttp"),
    ("only_upstream_opens_sockets", "exchange.exchange", "import socket"),
    ("only_upstream_opens_sockets", "cli.doctor", "from urllib.request import urlopen"),
    ("only_upstream_opens_sockets", "cli.doctor", "from urllib import request"),
    (
        "only_upstream_opens_sockets",
        "exchange.exchange",
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
]

GOOD = [
    ("only_upstream_opens_sockets", "upstream.http", "import aiohttp"),
    ("only_upstream_opens_sockets", "server.listen", "import socket"),
    ("only_platforms_calls_the_operating_system", "platforms.processes", "import resource"),
    ("only_upstream_opens_sockets", "routing.router", "from urllib.parse import urlsplit"),
    ("only_settings_reads_the_environment", "settings", "import os\nx = os.environ"),
    ("only_settings_reads_the_environment", "app", "import os\nsettings = load_settings(os.environ, PROVIDERS)"),
    ("wires_name_no_provider_and_no_model", "wire.chat", '"""Groq says otherwise."""\nx = "tool_calls"'),
    ("wires_name_no_provider_and_no_model", "wire.chat", "class D:\n    quirk: bool = False\n    '''True for groq.'''"),
    ("wires_name_no_provider_and_no_model", "routing.providers", "name = 'groq'"),
    ("wires_name_no_provider_and_no_model", "wire.chat", "x = state.model in (None, call.model)"),
    ("messages_and_wires_are_deterministic", "exchange.exchange", "from time import monotonic"),
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


def test_test_modules_share_code_in_support_modules() -> None:
    """An import of another test module runs its fixtures and parameters, and ties two subjects together."""
    found = [
        f"{path.relative_to(TESTS)}: {line}"
        for path in TESTS.rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if re.match(r"\s*(from|import) tests\.(\w+\.)*test_", line)
    ]
    assert found == []
