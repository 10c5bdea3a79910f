"""Command `import`: reads the configuration of another proxy, and writes the same settings for this proxy.

`reading` returns an `ImportPlan`: the lines that the two settings files get, and the entries that have no equivalent.
Its readers decode the other configuration by `parts`, and add servers by `servers`. `unusable` and `retired` change the
plan, `files` writes it, and `report` tells the user what comes of it.
"""

import os
import sys
from datetime import date
from pathlib import Path

from anthropic_proxy.cli import EXIT_FAILED
from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.importing.files import prepare_files
from anthropic_proxy.cli.importing.plan import ImportPlan
from anthropic_proxy.cli.importing.reading import ROUTER_FOLDER, find_router_file, read_plan
from anthropic_proxy.cli.importing.report import Draft, list_names, list_next_steps, write_report
from anthropic_proxy.cli.importing.retired import replace_retired_models
from anthropic_proxy.cli.importing.unusable import leave_out_unusable_values
from anthropic_proxy.cli.local_proxy import reload_proxies
from anthropic_proxy.cli.output import Output, describe_input
from anthropic_proxy.cli.questions import open_questions
from anthropic_proxy.console import formats
from anthropic_proxy.engine.platforms.files import MAX_CONFIG_BYTES
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.platforms.shells import quote_word
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.server.auth import require_auth_if_exposed
from anthropic_proxy.gateway.settings import ENV_FILE, Settings, copy_environment
from anthropic_proxy.gateway.settings.place import require_settings_folder
from anthropic_proxy.gateway.settings.sources import Sources


def import_settings(file: Path | None = None, /, *, dry_run: bool = False, copy_keys: bool = False) -> None:
    """Parameters
    ----------
    file
        Configuration file of the other proxy; `-` for standard input. By default that of claude-code-router.
    dry_run
        Print what the command would print, and the new lines. Write nothing.
    copy_keys
        Write the API keys of the file to .env too. In a terminal, the command asks for keys and lines.
    """
    command = "anthropic-proxy import" if file is None else f"anthropic-proxy import {quote_word(str(file))}"
    file = file or find_router_file()
    plan = read_plan(file)
    output = Output()
    present = load_command_settings(of_running_proxy=False)
    draft = _prepare(plan, file, present, copies_keys=copy_keys)
    asks = not dry_run and sys.stdin.isatty() and output.is_terminal
    write_report(output, draft, is_plan=dry_run or asks)
    lines_wait = bool(draft.new_settings)
    secrets = plan.secrets
    if asks and (lines_wait or secrets):
        output.write_line()
        questions = open_questions(output)
        if secrets:
            places = list_names([key.setting for key in secrets.values()])  # the file does not have our names
            question = f"Copy {formats.plural(len(secrets), 'key')} of {draft.base} to {draft.env_file}: {places}?"
            if questions.confirm(question, default=True):
                plan.copy_secrets(secrets)
                draft.files = prepare_files(plan, draft.folder)
        if lines_wait and not questions.confirm("Write the lines?", default=True):
            output.write_notice("Nothing was written.")
            sys.exit(EXIT_FAILED)
    if not dry_run:
        draft.files.write(output)
        if asks and draft.new_settings:
            output.write_line(f"  {output.mark('✓')} Added the lines.")
        reload_proxies(output, present, draft.folder / ENV_FILE)
    output.write_line()
    steps = list_next_steps(draft, command, is_dry_run=dry_run)
    leads = ["Next:", *[""] * (len(steps) - 2), "Then:"]
    for lead, (line, purpose) in zip(leads, steps, strict=False):
        output.write_step(f"  {lead:<5} ", line, purpose)


def _prepare(plan: ImportPlan, file: Path, present: Settings, *, copies_keys: bool) -> Draft:
    """Return what the command would write: `plan` without what is unusable, retired or set already."""
    environ = copy_environment()
    folder = require_settings_folder(environ)
    given = Sources(environ, str(folder / ENV_FILE))
    if (router := file.parent).name == ROUTER_FOLDER:  # other files have rules of projects and models of agents
        if projects := sorted(file.parent.name for file in router.glob("*/config.json")):
            text = (
                f"rules of their own in {router}{os.sep}*{os.sep}config.json are not imported: {list_names(projects)}"
            )
            plan.add_note("Projects", f"{text}. A route with the condition project has the same effect")
        agents = sorted((router.parent / ".claude" / "agents").glob("**/*.md"))
        tagged = [agent.name for agent in agents if b"<CCR-SUBAGENT-MODEL>" in agent.read_bytes()[:MAX_CONFIG_BYTES]]
        if tagged:
            text = f"this tag has no effect here: {list_names(tagged)}. At the top of the file, write the model as"
            plan.add_note("<CCR-SUBAGENT-MODEL>", text, "model: PREFIX/MODEL")
    leave_out_unusable_values(plan, present.configured_providers)
    retired = replace_retired_models(plan, folder, date.today())
    plan.settle_known_keys(given)
    plan.keep_preferred_provider(given)
    if copies_keys:
        plan.copy_secrets(plan.secrets)
    files = prepare_files(plan, folder)
    if "HOST" in plan.variables and given.find_setting("PROXY_API_KEY", is_list=True) is None:
        try:
            require_auth_if_exposed(files.settings)
        except ConfigurationError as error:
            plan.add_note("HOST", f"serve does not start with it. {error.messages[0].rstrip('.')}", is_error=True)
    name = describe_input(file)
    base = name if str(file) == "-" else file.name
    return Draft(plan, shorten_home(name), base, folder, given, retired, files)
