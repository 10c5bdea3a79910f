"""The process that forks commands imports this module first, and so all that a command would import or compile.

A module of a command imports its libraries at the top, such as cyclopts and questionary. Others are imported where they
are used.
"""

import gc
from importlib import import_module

import time_machine  # noqa: F401  # which `set_up` of a fork needs

import anthropic_proxy.app
import anthropic_proxy.console.ledger.plugin
import anthropic_proxy.console.ledger.queries  # noqa: F401
from anthropic_proxy.cli.command_table import COMMANDS
from anthropic_proxy.cli.commands import commands
from anthropic_proxy.engine.patterns import list_patterns
from anthropic_proxy.gateway.prices.price_list import PRICE_SOURCE

LATE_IMPORTS = (
    "anthropic_proxy.cli.help_console",
    "anthropic_proxy.engine.exchange.tool_loop.runner",
    "anthropic_proxy.engine.messages.json_validation",
    "anthropic_proxy.engine.wires.gemini",
    "anthropic_proxy.engine.wires.ollama",
    "anthropic_proxy.engine.wires.openai_chat",
    "anthropic_proxy.engine.wires.openai_responses",
    "cyclopts.help.inline_text",
    "docstring_parser",
    "dotenv",
    "encodings.idna",  # by each look-up of a host
    "encodings.utf_8_sig",
    "rich.markdown",
    "sqlalchemy.dialects.sqlite",
    "yaml",
)
"""What many commands import only while they run."""

for command in COMMANDS.values():
    import_module(f"anthropic_proxy.cli.{command.path.partition(':')[0]}")
for name in LATE_IMPORTS:
    import_module(name)
for name in COMMANDS:
    if commands[name].default_command is not None:  # else a group of commands
        commands[name].assemble_argument_collection()
for pattern in list_patterns():
    assert pattern.match, "the first use compiles it"
PRICE_SOURCE.load()
gc.collect()
gc.freeze()  # otherwise the first collection in each command would copy the memory of all objects
