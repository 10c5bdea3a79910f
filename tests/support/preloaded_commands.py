"""The process that forks commands imports this module first, and so all that a command would import.

A module of a command imports its libraries at the top, such as cyclopts and questionary.
"""

import encodings.idna  # noqa: F401  # by each look-up of a host
import gc
from importlib import import_module

import anthropic_proxy.app
import anthropic_proxy.console.ledger.plugin
import anthropic_proxy.console.ledger.queries  # noqa: F401
from anthropic_proxy.cli.command_table import COMMANDS

for command in COMMANDS.values():
    import_module(f"anthropic_proxy.cli.{command.path.partition(':')[0]}")
gc.collect()
gc.freeze()  # otherwise the first collection in each command would copy the memory of all objects
