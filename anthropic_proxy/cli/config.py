"""Commands `config show` and `config check`: the settings with their sources, and problems among them."""

import asyncio
import os
import sys
from datetime import date
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from msgspec import structs

from anthropic_proxy.cli.command_settings import NO_PROVIDER, describe_files, load_command_settings
from anthropic_proxy.cli.commands import new_group
from anthropic_proxy.cli.output import Column, Output
from anthropic_proxy.cli.server_processes import require_startable
from anthropic_proxy.cli.service import describe_log
from anthropic_proxy.console.ledger.database import find_database
from anthropic_proxy.engine.advice import Problem, ProblemKind, list_texts, report_warning
from anthropic_proxy.engine.options import split_origin
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.routing.choices import find_preferred_provider
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.plugin_packages import open_plugins
from anthropic_proxy.gateway.problems import describe_demo, find_problems, find_server_problems
from anthropic_proxy.gateway.services import open_services
from anthropic_proxy.gateway.settings import ENV_FILE, Settings, copy_environment, list_known_variables
from anthropic_proxy.gateway.settings.facts_file import describe_facts, list_facts
from anthropic_proxy.gateway.settings.key_references import UNRESOLVED_KEY
from anthropic_proxy.gateway.settings.place import describe_unread_files, require_settings_folder
from anthropic_proxy.gateway.settings.rewrite import plan_rewrite, write_rewrite
from anthropic_proxy.gateway.settings_listing import SettingRow, list_settings

config = new_group("config")
"""Group of the commands `config show` and `config check`."""
_UNREAD_KEYS = "Keys in files and from commands were not read. Check them too:"


@config.command
def show(*, all_settings: Annotated[bool, Parameter(name="--all")] = False, as_json: bool = False) -> None:
    """Show each setting with its value, source and default. Keys are masked to their last four characters.

    Parameters
    ----------
    all_settings
        Include the settings that are not set, which have their default.
    as_json
        Print one JSON object instead.
    """
    settings = load_command_settings(names_source=True)
    output = Output()
    rows = asyncio.run(_list_settings(settings))
    shown = [row for row in rows if all_settings or row.source != "default"]
    if unread := describe_unread_files(settings.env_file, list_known_variables(PROVIDERS)):
        output.write_notice(unread, "!")
    if as_json:
        full = [structs.replace(row, source=os.path.expanduser(row.source)) for row in shown]
        places = {"ledger": _describe_ledger(settings), "log": describe_log()}
        lists = {"files": list(settings.files), "facts": list_facts(settings.facts), "settings": full}
        output.write_json({**lists, **places})
        return
    if shown:
        columns = [Column("Setting"), Column("Value", wraps=True), Column("Source", role="quiet")]
        if output.is_terminal:
            cells = []
            for row in shown:
                file, line = split_origin(row.source)
                # the line below the table has the whole names
                source = f"{Path(file).suffix or Path(file).name} line {line}" if line else row.source
                # few settings have a default, so it is beside the value
                default = f", default {row.default}" if row.default not in ("", row.value or "–") else ""
                cells.append([row.name, f"{row.value or '–'}{default}", source])
        else:
            columns.append(Column("Default"))
            cells = [[row.name, row.value or "–", row.source, row.default or "–"] for row in shown]
        output.write_table(columns, cells)
    if hidden := len(rows) - len(shown):
        output.write_notice(f"{hidden} settings are not set. Show them with:  anthropic-proxy config show --all")
    output.write_notice(describe_files(settings))
    output.write_notice(f"Ledger: {shorten_home(_describe_ledger(settings)) or 'off'}")
    output.write_notice(f"Log: standard output of the proxy; of the service  {shorten_home(describe_log())}")
    output.write_notice(f"Models: {describe_facts(settings.facts)}")


def _describe_ledger(settings: Settings) -> str:
    """Return the database with the stored requests. "": nothing is stored."""
    try:
        return find_database(settings).describe() if settings.has_ledger() else ""
    except ConfigurationError as error:
        if error.code != "only-in-the-server":
            raise
        return "only the running proxy knows DATABASE_URL"


async def _list_settings(settings: Settings) -> list[SettingRow]:
    services = await open_services(settings)
    try:
        return list_settings(settings, services.catalog)
    finally:
        await services.close()


@config.command
def check(
    *,
    reads_keys: Annotated[bool, Parameter(name="--keys")] = False,
    writes: Annotated[bool, Parameter(name="--write")] = False,
    as_json: bool = False,
) -> None:
    """Check the settings. Exit status: 0 without findings, 1 with warnings or missing keys, 2 for an invalid setting.

    Parameters
    ----------
    reads_keys
        Read the key files and run the key commands of anthropic-proxy.toml too, and report those that give no key.
    writes
        First move settings with old names from .env to anthropic-proxy.toml. A copy of each changed file stays.
    as_json
        Print one JSON object instead.
    """
    output = Output()
    try:
        if writes:
            _move_old_names(output)
        settings = load_command_settings(resolves_keys=reads_keys, names_source=True)
        problems = asyncio.run(_find_problems(settings))
    except ConfigurationError as error:
        if not as_json:
            raise
        output.write_json({"status": "invalid", "problems": error.messages, "warnings": []})
        sys.exit(2)
    if as_json:
        errors = [problem for problem in problems if problem.is_error]
        others = [problem for problem in problems if not problem.is_error]
        lists = {"problems": list_texts(errors), "warnings": list_texts(others)}
        output.write_json({"status": "findings" if problems else "ok", **lists})
    else:
        output.write_problems(problems)
        if not problems:
            output.write_line(f"  {output.mark('✓')} The settings are valid. No provider was called.")
        if UNRESOLVED_KEY in settings.reveal_all_secrets():
            output.write_notice(f"{_UNREAD_KEYS}  anthropic-proxy config check --keys")
    sys.exit(1 if problems else 0)


def _move_old_names(output: Output) -> None:
    """Raises `ConfigurationError` if a file cannot be changed. No value is printed."""
    environ = copy_environment()
    folder = require_settings_folder(environ)
    rewrite = plan_rewrite(environ, PROVIDERS, str(folder / ENV_FILE))
    copies = write_rewrite(rewrite)
    for old in rewrite.moved:
        output.write_notice(f"{old.name} of .env is now {old.home}.", "✓")
    for copy in copies:
        output.write_notice(f"Copy of the previous file: {shorten_home(copy)}")
    for old in rewrite.in_environment:
        output.write_notice(f"{old.name} is in the environment: set {old.home}, and remove {old.name} there.", "!")
    if not rewrite.moved and not rewrite.in_environment:
        output.write_notice("No setting has an old name.")


async def _find_problems(settings: Settings) -> list[Problem]:
    """The only requests are to servers of this machine or a private network, and ask no model."""
    require_startable(settings)
    try:
        tuple(open_plugins(settings))
    except ConfigurationError as error:
        if error.code != "only-in-the-server":  # such values opened the plugins of the running proxy
            raise
    search = settings.search and structs.replace(settings.search, problem=settings.search.problem_details)
    detailed = structs.replace(settings, key_problems=settings.key_problem_details, search=search)
    services = await open_services(detailed)
    try:
        server_problems = await find_server_problems(detailed, services.catalog, services.transports)
        problems = find_problems(detailed, services.catalog, date.today(), server_problems)
        is_demo = find_preferred_provider(detailed, services.catalog).name == "demo"
        if is_demo and detailed.preferred_provider is None:
            reason = NO_PROVIDER.format(demo=describe_demo(detailed))
            problems.append(report_warning(ProblemKind.STATED, "settings", reason=reason))
        return problems
    finally:
        await services.close()
