"""Command `import`: reads the configuration of another proxy, and writes the same settings for this proxy.

Each format has a reader in `importing`, which returns an `ImportPlan`. The plan says which lines the two settings files
get, and which entries have no equivalent.
"""

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from anthropic_proxy.cli import EXIT_FAILED
from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.importing.env_file import has_provider_variable, read_env_file
from anthropic_proxy.cli.importing.litellm_config import LITELLM_SECTIONS, read_litellm_config
from anthropic_proxy.cli.importing.plan import (
    FileChange,
    ImportNote,
    ImportPlan,
    find_referenced_variable,
    format_key_field,
    list_route_rows,
    prepare_files,
    write_mapping_rows,
)
from anthropic_proxy.cli.importing.router_config import is_router_database, read_router_config, read_router_database
from anthropic_proxy.cli.local_proxy import reload_proxies
from anthropic_proxy.cli.output import Output, describe_input, read_input
from anthropic_proxy.cli.questions import open_questions
from anthropic_proxy.console import formats
from anthropic_proxy.engine.options import TIERS, list_condition_texts
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.platforms.files import MAX_CONFIG_BYTES
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.platforms.shells import quote_word
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.routing.model_listing import list_tier_mappings
from anthropic_proxy.engine.routing.router import ModelChoice, find_preferred_provider, find_successor_id
from anthropic_proxy.errors import ConfigurationError, build_extra_install_command, join_with_and, join_with_or
from anthropic_proxy.gateway.readiness import describe_demo, describe_retirements, list_retirement_notices
from anthropic_proxy.gateway.server.auth import require_auth_if_exposed
from anthropic_proxy.gateway.settings import CONFIG_FILE, ENV_FILE, Settings, copy_environment
from anthropic_proxy.gateway.settings.files import decode_env_text, find_invalid_env_line
from anthropic_proxy.gateway.settings.place import require_settings_folder
from anthropic_proxy.gateway.settings.sources import Sources
from anthropic_proxy.gateway.settings.values import mask_env_lines
from anthropic_proxy.gateway.telemetry.log.lines import escape_terminal_controls, paint_commands

_START_CLIENT = ("anthropic-proxy code", "in the folder of your project")
_MODEL_LIST = compile_later(r"^model_list:", re.MULTILINE)
_ROUTER_FOLDER = ".claude-code-router"
_MAX_NAMES = 5
_MAX_MERGED_PAIRS = 10_000
"""Maximum number of pairs in all mappings of a YAML file, beside one for each character."""
_JSON5_TOKEN = compile_later(
    r"""
    (?P<skipped>\s+|//[^\n]*|/\*.*?(?:\*/|\Z))
    | "(?:[^"\\\n]|\\.)*"?
    | '(?:[^'\\\n]|\\.)*(?P<single>')?
    | (?P<name>[A-Za-z_$][\w$]*)(?=\s*:)
    | [\w$.+-]+
    | .
    """,
    re.DOTALL | re.VERBOSE,
)
_JSON_PROBLEMS = {
    "Expecting ',' delimiter": "a comma is missing before this place",
    "Expecting ':' delimiter": "a colon is missing before this place",
    "Expecting value": "a value is missing",
    "Expecting property name enclosed in double quotes": "a name is missing",
    "Invalid control character at": "a text has no closing quote",
    "Unterminated string starting at": "a text has no closing quote",
    "Extra data": "the object ends before this place",
}
"""Error of `json` → text for the user."""
_UNESCAPED_QUOTE = compile_later(r'(\\.)|"', re.DOTALL)
_SUPPORTED = (
    "Supported are config.json and config.sqlite of claude-code-router, config.yaml of LiteLLM's proxy, and .env of an "
    "earlier proxy."
)


def import_settings(
    file: Path | None = None,
    /,
    *,
    dry_run: bool = False,
    copy_keys: bool = False,
) -> None:
    """Parameters
    ----------
    file
        Configuration file of the other proxy; `-` for standard input. By default that of claude-code-router.
    dry_run
        Print what the command would print, and the new lines. Write nothing.
    copy_keys
        Write the API keys of the file to .env too. In a terminal, the command asks for keys and lines.
    """
    own_command = "anthropic-proxy import" if file is None else f"anthropic-proxy import {quote_word(str(file))}"
    file = file or _find_router_file()
    name = describe_input(file)
    base = name if str(file) == "-" else file.name
    if is_router_database(file):
        plan = read_router_config(read_router_database(file, MAX_CONFIG_BYTES))
    else:
        plan = _read_configuration(read_input(file, MAX_CONFIG_BYTES), name)
    output = Output()
    environ = copy_environment()
    folder = require_settings_folder(environ)
    shown_env_file, shown_config_file = (shorten_home(folder / name) for name in (ENV_FILE, CONFIG_FILE))
    present = load_command_settings(of_running_proxy=False)
    if file.parent.name == _ROUTER_FOLDER:
        _note_other_router_files(plan, file.parent)
    plan.leave_out_unusable_values(present.configured_providers)
    retired = plan.replace_retired_models(folder, date.today())
    given = Sources(environ, str(folder / ENV_FILE))
    plan.settle_known_keys(given)
    plan.keep_preferred_provider(given)
    if copy_keys:
        plan.copy_secrets(plan.secrets)
    asks = not dry_run and sys.stdin.isatty() and output.is_terminal
    is_plan = dry_run or asks
    files = prepare_files(plan, folder)
    if "HOST" in plan.variables and not _is_set("PROXY_API_KEY", given):
        try:
            require_auth_if_exposed(files.settings)
        except ConfigurationError as error:
            plan.add_note("HOST", f"serve does not start with it. {error.messages[0].rstrip('.')}", is_error=True)

    total = len(plan.variables) + len(plan.servers) + len(plan.routes)
    new = [name for change in files.changes for name in change.added_settings]
    added = len(new)
    output.write_line(
        f"{shorten_home(name)} of {plan.source}: {_count_settings(total, files.changes, is_plan=is_plan)}."
    )
    uses_demo = find_preferred_provider(files.settings, Catalog()).name == "demo"
    if uses_demo:
        output.write_line()
        output.write_line(f"  {output.paint('!', 'warn')} {describe_demo(files.settings)}.")
    else:
        _write_mapping(output, plan, files.settings)
        choices = [choice for name in new for choice in retired.get(name, ())]
        for text in _describe_successors(choices, files.settings, "would be" if is_plan else "is"):
            output.write_line(f"  {output.paint('!', 'warn')} {text}")
        for text, line in list_retirement_notices(files.settings, Catalog(), date.today()):
            output.write_line(f"  {output.paint('!', 'warn')} {text}  {output.paint(line, 'type')}")
        others = [
            name for name in new if not name.endswith("_MODEL") and not name.startswith(("FALLBACK_", "MODEL_", "[["))
        ]
        if others and not is_plan:  # which lists all lines
            output.write_line(f"  {output.paint(f'Also imported: {join_with_and(others)}.', 'quiet')}")
    if "PROXY_API_KEY" in plan.variables:
        text = "Clients then need the key in PROXY_API_KEY. anthropic-proxy code sends it by itself."
        output.write_line(f"  {output.paint(text, 'quiet')}")
    without_model = next(
        (row for row in list_tier_mappings(files.settings, Catalog()) if row.target.endswith("/")), None
    )
    if without_model is not None:
        output.write_line(f"  {output.paint('!', 'warn')} {without_model.problems[0]}.")
    _write_kept_values(output, files.changes, base)
    _write_notes(output, [note for note in plan.notes if is_plan or not note.is_harmless])
    needed = _write_missing_keys(output, plan, files.settings, shown_env_file, given)
    if is_plan:
        _write_new_lines(output, files.changes)

    if asks and (added or plan.secrets):
        output.write_line()
        questions, lines_wait = open_questions(output), added > 0
        if plan.secrets:
            places = _list_names([key.setting for key in plan.secrets.values()])  # the file does not have our names
            question = f"Copy {formats.plural(len(plan.secrets), 'key')} of {base} to {shown_env_file}: {places}?"
            if questions.confirm(question, default=True):
                needed = {name: table for name, table in needed.items() if name not in plan.secrets}
                plan.copy_secrets(plan.secrets)
                files = prepare_files(plan, folder)
                added = sum(len(change.added_settings) for change in files.changes)
        if lines_wait and not questions.confirm("Write the lines?", default=True):
            output.write_notice("Nothing was written.")
            sys.exit(EXIT_FAILED)
    if not dry_run:
        files.write(output)
        if asks and added:
            output.write_line(f"  {output.paint('✓', 'ok')} Added the lines.")
        reload_proxies(output, present, folder / ENV_FILE)
    steps = [(own_command, "writes them")] if total else [(own_command, "again, when the file is corrected")]
    if not dry_run or (total and not added):
        if not uses_demo:
            steps = [_START_CLIENT]
        elif total:
            steps = [("anthropic-proxy init", "chooses a provider")]
        if without_model is not None:
            names = ("BIG_MODEL", "SMALL_MODEL")
            steps = [*((f"{name}={without_model.target}…", f"in {shown_env_file}") for name in names), *steps]
        if needed and needed.keys() <= plan.secrets.keys() and str(file) != "-":
            steps.insert(0, (f"{own_command} --copy-keys", "copies the keys of the file"))
        elif needed:
            users = {find_referenced_variable(value): f", above {name}" for name, value in plan.variables.items()}
            # a line can refer to lines above it
            lines = [(f"{variable}=…", f"in {shown_env_file}{users.get(variable, '')}") for variable in sorted(needed)]
            tables = ((format_key_field(variable), table) for variable, table in sorted(needed.items()) if table)
            steps = [*lines, *((line, f"in {table} of {shown_config_file}") for line, table in tables), *steps]
    output.write_line()
    leads = ["Next:", *[""] * (len(steps) - 2), "Then:"]
    for lead, (line, purpose) in zip(leads, steps, strict=False):
        output.write_step(f"  {lead:<5} ", line, purpose)


def _count_settings(total: int, changes: Sequence[FileChange], *, is_plan: bool) -> str:
    """`3 of 5 settings imported to .env, the others are set already`"""
    count, added = formats.plural(total, "setting"), sum(len(change.added_settings) for change in changes)
    if total and not added:
        return f"nothing is new. {count} {'is' if total == 1 else 'are'} set already"
    places = " and ".join(shorten_home(change.path) for change in changes if change.added_settings)
    part, rest = (f"{added} of ", ", the others are set already") if added < total else ("", "")
    verb = "would be imported" if is_plan else "imported"
    return f"{part}{count} {verb}{f' to {places}' if places else ''}{rest}"


def _write_kept_values(output: Output, changes: Sequence[FileChange], base: str) -> None:
    """`base`: name of the imported file."""
    kept = [(shorten_home(change.path), each) for change in changes for each in change.kept]
    if not kept:
        return
    output.write_line()
    output.write_line(output.paint("Values that stay as they are", "title"))
    for path, each in kept:
        texts = f"{each.name}: {path} has {each.present}; {base} has {each.wanted}."
        output.write_line(f"  {output.paint('!', 'warn')} {escape_terminal_controls(texts)}")
    output.write_line(f"  To take the value of {base}, delete the line or table, and import again.")


def _write_notes(output: Output, notes: Sequence[ImportNote]) -> None:
    if not notes:
        return
    output.write_line()
    output.write_line(output.paint("Not the same here", "title"))
    for note in sorted(notes, key=lambda note: not note.is_error):
        end = f":  {note.line}" if note.line else "."  # a full stop behind the line would be pasted with it
        sign = output.paint(*("✕", "error") if note.is_error else ("!", "warn"))
        text = f"{note.setting}: {note.reason}{end}"
        output.write_line(f"  {sign} {paint_commands(escape_terminal_controls(text), output.paint)}")


def _write_new_lines(output: Output, changes: Sequence[FileChange]) -> None:
    for change in changes:
        if change.added:
            output.write_line()
            output.write_line(output.paint(f"Lines for {shorten_home(change.path)}", "title"))
        for line in mask_env_lines(change.added).strip("\n").splitlines():
            output.write_line(f"  {output.paint('+', 'ok')} {line}" if line else "  +")


def _describe_successors(retired: Sequence[ModelChoice], settings: Settings, verb: str) -> Iterator[str]:
    """Yield a sentence for each successor that is written."""
    groups: dict[str, list[ModelChoice]] = {}
    for choice in retired:
        groups.setdefault(find_successor_id(choice, settings, date.today()), []).append(choice)
    for successor, choices in groups.items():
        pronoun = "Its" if len({choice.prefixed_id for choice in choices}) == 1 else "Their"
        yield f"{describe_retirements(choices, settings)}. {pronoun} successor {successor} {verb} imported."


def _write_mapping(output: Output, plan: ImportPlan, settings: Settings) -> None:
    """Write the model of each Claude tier, and of each route."""
    tiers_by_target: dict[str, list[str]] = {}
    rows = list_tier_mappings(settings, Catalog())
    for row in rows:
        target = f"{row.target}, then {', '.join(row.fallbacks)}" if row.fallbacks else row.target
        tiers_by_target.setdefault(target, []).append(row.tier)
    mapping = [(", ".join(tiers), target) for target, tiers in tiers_by_target.items()]
    mapping += list_route_rows(settings)
    output.write_line()
    write_mapping_rows(output, mapping)
    names = [route.name for route in plan.routes if route.when.get("thinking")]
    thinking = next((route for route in settings.routes if route.name in names), None)
    tiers = TIERS if thinking is None else list_condition_texts(thinking.when.tier) or TIERS
    if thinking is not None and any(row.tier in tiers and row.target != thinking.targets[0] for row in rows):
        text = f"Claude Code asks for thinking in nearly all requests, so most go to {thinking.targets[0]}."
        output.write_line(f"  {output.paint(text, 'quiet')}")


def _write_missing_keys(
    output: Output, plan: ImportPlan, settings: Settings, env_file: str, given: Sources
) -> dict[str, str]:
    """Write the variables of keys that the user still has to set, each with the server or entry that it is for.

    Return those without which a Claude tier has no key, each with the table that does not name it yet ("": none).
    `given`: the variables that are set already.
    """
    tables = {table.name: table for table in settings.configured_providers}
    used = {prefix.partition("/")[0] for route in settings.routes for prefix in route.targets}
    tiers, needed = list_tier_mappings(settings, Catalog()), dict[str, str]()
    for row in tiers:
        used |= {target.partition("/")[0] for target in (row.target, *row.fallbacks)}
    targets = {row.target.partition("/")[0] for row in tiers}
    missing = {variable: key.setting for variable, key in plan.secrets.items()}
    unused = []
    for provider in find_registry(settings):
        table = tables.get(provider.name)
        variable = provider.key_variable if table is None else table.key_variable
        reference = find_referenced_variable(plan.variables.get(variable or "", ""))
        is_set = settings.keys.get(provider.name) or any(_is_set(name, given) for name in (variable or "", reference))
        if variable in plan.variables and not reference:  # a ${NAME} inside it needs the environment
            is_set = True
        can_need_key = provider.key_source == "settings" and provider.key_required != "never"
        if variable and (can_need_key or (table is not None and table.has_key)) and not is_set:
            unnamed_in = f"[providers.{table.name}]" if table is not None and not table.has_key else ""
            if provider.prefix in targets:
                needed[reference or variable] = unnamed_in
            if variable in plan.secrets:
                continue
            variable = reference or variable
            if provider.prefix in used:
                with_field = f", with  {format_key_field(variable)}  in {unnamed_in}" if unnamed_in else ""
                missing.setdefault(variable, f"of {provider.prefix}{with_field}")
            elif provider.name in plan.servers:
                unused.append(provider.prefix)
    if missing:
        ways = ", to export, or to copy with --copy-keys" if plan.secrets else ", or to export"
        output.write_line()
        output.write_line(output.paint(f"Keys to write to {env_file}{ways}:", "title"))
        width = max(map(len, missing))
        for variable, place in missing.items():
            output.write_line(f"  {output.paint('!', 'warn')} {variable + '=…':<{width + 2}}  {place}")
    if unused:
        output.write_line()
        output.write_line(f"  Not in use, without a key: {', '.join(unused)}.")
    return needed


def _is_set(variable: str, sources: Sources) -> bool:
    return sources.find_setting(variable, is_list=True) is not None


def _note_other_router_files(plan: ImportPlan, folder: Path) -> None:
    """Add a note about the rules of projects and the models of agents, which other files have."""
    if projects := sorted(file.parent.name for file in folder.glob("*/config.json")):
        text = f"rules of their own in {folder}{os.sep}*{os.sep}config.json are not imported: {_list_names(projects)}"
        plan.add_note("Projects", f"{text}. A route with the condition project has the same effect")
    agents = sorted((folder.parent / ".claude" / "agents").glob("**/*.md"))
    tagged = [file.name for file in agents if b"<CCR-SUBAGENT-MODEL>" in file.read_bytes()[:MAX_CONFIG_BYTES]]
    if tagged:
        text = f"this tag has no effect here: {_list_names(tagged)}. At the top of the file, write the model as"
        plan.add_note("<CCR-SUBAGENT-MODEL>", text, "model: PREFIX/MODEL")


def _list_names(names: list[str]) -> str:
    return ", ".join(names[:_MAX_NAMES]) + (", …" if len(names) > _MAX_NAMES else "")


def _find_router_file() -> Path:
    """Return the configuration of claude-code-router that was written last. Raises `ConfigurationError`."""
    environ = copy_environment()
    folders = [Path.home() / _ROUTER_FOLDER]
    if appdata := environ.get("APPDATA"):
        folders.append(Path(appdata) / "claude-code-router")
    files = [folder / name for folder in folders for name in ("config.json", "config.sqlite")]
    found = [file for file in files if file.is_file()]
    if not found:
        raise ConfigurationError(
            f"FILE is missing, and there is no configuration of claude-code-router in {folders[0]}. {_SUPPORTED}",
            code="import-file",
        )
    return max(found, key=lambda file: file.stat().st_mtime)


def _read_configuration(content: bytes, name: str) -> ImportPlan:
    """Raises `ConfigurationError` for an unknown format."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{name} is not UTF-8 text: byte {error.start} is invalid.", code="import-file"
        ) from None
    is_json = text.lstrip().startswith(("{", "//", "/*"))
    if is_json or name.lower().endswith((".yaml", ".yml")) or _MODEL_LIST.search(text):
        try:
            config: Any = _decode_json5(text, name) if is_json else _decode_yaml(text, name)
        except RecursionError:
            raise _reject(name, "it nests lists or objects too deeply") from None
        except ValueError:  # Python's limit of digits
            raise _reject(name, "a number has too many digits") from None
        sections = {*config} if isinstance(config, dict) else set[str]()
        if is_json:
            if {"Providers", "providers", "Router", "router"} & sections:
                return read_router_config(config)
            raise _reject(name, "it is JSON without Providers and Router")
        if LITELLM_SECTIONS & sections:
            return read_litellm_config(config)
        raise _reject(name, f"it is YAML without {join_with_or(sorted(LITELLM_SECTIONS))}")
    if line := find_invalid_env_line(text):
        raise _reject(name, f"it is no JSON or YAML, and line {line} does not set a variable")
    variables = decode_env_text(text)
    if not has_provider_variable(variables):
        raise _reject(name, "it sets no key, address or model of a provider, such as OPENAI_API_KEY or BIG_MODEL")
    return read_env_file(variables)


def _decode_json5(text: str, name: str) -> Any:
    """Decode JSON with comments, trailing commas, names without quotes and single quotes, as the other proxy does.

    Raises `ConfigurationError` with line and column of a syntax error.
    """
    tokens: list[str] = []
    starts: list[int] = []
    for found in _JSON5_TOKEN.finditer(text):
        token = found[0]
        if found.lastgroup == "skipped":
            continue
        if found.lastgroup in {"name", "single"}:
            bare = token[1:-1].replace("\\'", "'") if token.startswith("'") else token
            token = f'"{_UNESCAPED_QUOTE.sub(lambda quote: quote[1] or chr(92) + chr(34), bare)}"'
        elif token in ("}", "]") and tokens[-1:] == [","] and tokens[-2:-1] not in ([], ["{"], ["["], [","]):
            del tokens[-1], starts[-1]
        tokens.append(token)
        starts.append(found.start())
    try:
        return json.loads("\n".join(tokens))  # one token in a line, so that the line of an error tells which one it is
    except json.JSONDecodeError as error:
        if error.pos >= len(error.doc):
            position, problem = len(text.rstrip()), "the file ends too early"
        else:
            position, problem = starts[error.lineno - 1], _JSON_PROBLEMS.get(error.msg, error.msg)
        line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
        raise ConfigurationError(
            f"{name} is not valid JSON: line {line}, column {column}: {problem}.", code="import-file"
        ) from None


def _decode_yaml(text: str, name: str) -> Any:
    try:
        import yaml  # type: ignore[import-untyped]  # noqa: PLC0415  # an extra
    except ImportError:
        command = build_extra_install_command("import")
        raise ConfigurationError(
            f"{name} is YAML, which needs PyYAML. It is not installed:  {command}", code="import-file"
        ) from None

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """With merge keys (`<<: [*a, *a]`), each line could double the values."""

        pairs_left = _MAX_MERGED_PAIRS + len(text)

        def flatten_mapping(self, node: Any) -> None:
            super().flatten_mapping(node)
            self.pairs_left -= len(node.value)
            if self.pairs_left < 0:
                raise yaml.constructor.ConstructorError(None, None, "merge keys make too many values", node.start_mark)

    try:
        return yaml.load(text, Loader)  # a `SafeLoader`
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{name} is not valid YAML: {reason}. {_SUPPORTED}", code="import-file") from None


def _reject(name: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name} is no configuration of a supported proxy: {reason}. {_SUPPORTED}", code="import-file"
    )
