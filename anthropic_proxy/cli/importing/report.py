"""What `import` tells the user: the result, what is not the same here, missing keys, new lines and the next steps."""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from msgspec import Struct

from anthropic_proxy.cli.importing.files import FilesToWrite
from anthropic_proxy.cli.importing.plan import ImportPlan, find_referenced_variable
from anthropic_proxy.cli.importing.tables import format_key_field
from anthropic_proxy.cli.output import Output
from anthropic_proxy.console import formats
from anthropic_proxy.engine.advice import MISSING_KEYS
from anthropic_proxy.engine.options import TIERS, list_condition_texts
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.routing.choices import ModelChoice, find_preferred_provider
from anthropic_proxy.engine.routing.model_listing import TierMapping, list_tier_mappings
from anthropic_proxy.engine.routing.replacements import find_successor_id
from anthropic_proxy.errors import join_with_and
from anthropic_proxy.gateway.problems import describe_demo, describe_retirements, find_problems
from anthropic_proxy.gateway.settings import CONFIG_FILE, ENV_FILE, Settings
from anthropic_proxy.gateway.settings.sources import Sources
from anthropic_proxy.gateway.settings.values import mask_env_lines
from anthropic_proxy.gateway.telemetry.log.columns import count_columns, pad
from anthropic_proxy.gateway.telemetry.log.lines import escape_terminal_controls, paint_commands

_START_CLIENT = ("anthropic-proxy code", "in the folder of your project")
_MAX_NAMES = 5
_MAX_CHARACTERS = 1_000
"""Maximum number of characters of the name of a setting, and of the reason, in a note."""
_MAPPING_SETTINGS = ("FALLBACK_", "MODEL_", "[[")
"""Beginnings of settings that the lines about tiers and routes show."""


class Draft(Struct):
    """What the command would write."""

    plan: ImportPlan
    name: str
    """Path of the imported file, for texts."""
    base: str
    """Name of the imported file without its folder."""
    folder: Path
    """Folder of the settings files."""
    given: Sources
    """Variables that are set already."""
    retired: Mapping[str, Sequence[ModelChoice]]
    """Setting → its models that are retired."""
    files: FilesToWrite

    @property
    def settings(self) -> Settings:
        """Those with the new lines."""
        return self.files.settings

    @property
    def new_settings(self) -> list[str]:
        return [name for change in self.files.changes for name in change.added_settings]

    @property
    def total(self) -> int:
        return len(self.plan.variables) + len(self.plan.servers) + len(self.plan.routes)

    @property
    def uses_demo(self) -> bool:
        return find_preferred_provider(self.settings, Catalog()).name == "demo"

    @property
    def env_file(self) -> str:
        return shorten_home(self.folder / ENV_FILE)

    def find_tier_without_model(self) -> TierMapping | None:
        return next(
            (row for row in list_tier_mappings(self.settings, Catalog()) if not row.target.partition("/")[2]), None
        )


class MissingKey(Struct, frozen=True):
    """Key of a provider that is not set."""

    provider: str
    """Prefix of the provider."""
    variable: str
    """Variable that the provider reads."""
    wanted: str
    """Variable to set: the one to which `variable` refers, or itself."""
    table: str
    """`[providers.NAME]`, if it does not name the variable yet."""


def write_report(output: Output, draft: Draft, *, is_plan: bool) -> None:
    """`is_plan`: the lines are shown, and not written yet."""
    total = draft.total
    added = len(draft.new_settings)
    count = formats.plural(total, "setting")
    if total and not added:
        text = f"nothing is new. {count} {'is' if total == 1 else 'are'} set already"
    else:  # `3 of 5 settings imported to .env, the others are set already`
        places = " and ".join(shorten_home(change.path) for change in draft.files.changes if change.added_settings)
        part, rest = (f"{added} of ", ", the others are set already") if added < total else ("", "")
        text = f"{part}{count} {'would be imported' if is_plan else 'imported'}{places and ' to '}{places}{rest}"
    output.write_line(f"{draft.name} of {draft.plan.source}: {text}.")
    if draft.uses_demo:
        output.write_line()
        _warn(output, f"{describe_demo(draft.settings)}.")
    else:
        _write_models(output, draft, is_plan=is_plan)
    if "PROXY_API_KEY" in draft.plan.variables:
        output.write_quiet("Clients then need the key in PROXY_API_KEY. anthropic-proxy code sends it by itself.")
    kept = [(shorten_home(change.path), value) for change in draft.files.changes for value in change.kept]
    if kept:
        _write_title(output, "Values that stay as they are")
        for path, value in kept:
            text = f"{value.name}: {path} has {value.present}; {draft.base} has {value.wanted}."
            _warn(output, escape_terminal_controls(text))
        output.write_line(f"  To take the value of {draft.base}, delete the line or table, and import again.")
    notes = [note for note in draft.plan.notes if is_plan or not note.is_harmless]
    if notes:
        _write_title(output, "Not the same here")
    for note in sorted(notes, key=lambda note: not note.is_error):
        end = f":  {note.line}" if note.line else "."  # a full stop behind the line would be pasted with it
        sign = output.mark("✕" if note.is_error else "!")
        setting, reason = (formats.shorten(part, _MAX_CHARACTERS) for part in (note.setting, note.reason))
        text = f"{setting}: {reason}{end}"
        output.write_line(f"  {sign} {paint_commands(escape_terminal_controls(text), output.paint)}")
    _write_missing_keys(output, draft)
    if is_plan:
        for change in draft.files.changes:
            if change.added:
                _write_title(output, f"Lines for {shorten_home(change.path)}")
            for line in mask_env_lines(change.added).strip("\n").splitlines():
                output.write_line(f"  {output.mark('+')} {line}" if line else "  +")


def list_next_steps(draft: Draft, command: str, *, is_dry_run: bool) -> list[tuple[str, str]]:
    """Return lines to type or to write, each with its purpose. `command`: this one."""
    if is_dry_run and (draft.new_settings or not draft.total):
        purpose = "writes them" if draft.total else "again, when the file is corrected"
        return [(command, purpose)]
    if not draft.uses_demo:
        steps = [_START_CLIENT]
    elif draft.total:
        steps = [("anthropic-proxy init", "chooses a provider")]
    else:
        steps = [(command, "again, when the file is corrected")]
    if (row := draft.find_tier_without_model()) is not None:
        names = ("BIG_MODEL", "SMALL_MODEL")
        steps = [*((f"{name}={row.target}…", f"in {draft.env_file}") for name in names), *steps]
    targets = {row.target.partition("/")[0] for row in list_tier_mappings(draft.settings, Catalog())}
    needed = {key.wanted: key.table for key in _find_missing_keys(draft) if key.provider in targets}
    if needed and needed.keys() <= draft.plan.secrets.keys() and draft.base != "standard input":
        return [(f"{command} --copy-keys", "copies the keys of the file"), *steps]
    # a line can refer to lines above it
    users = {find_referenced_variable(value): f", above {name}" for name, value in draft.plan.variables.items()}
    lines = [(f"{name}=…", f"in {draft.env_file}{users.get(name, '')}") for name in sorted(needed)]
    config_file = shorten_home(draft.folder / CONFIG_FILE)
    tables = [
        (format_key_field(name), f"in {needed[name]} of {config_file}") for name in sorted(needed) if needed[name]
    ]
    return [*lines, *tables, *steps]


def list_names(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_NAMES]) + (", …" if len(names) > _MAX_NAMES else "")


def _warn(output: Output, text: str) -> None:
    output.write_line(f"  {output.mark('!')} {text}")


def _write_title(output: Output, title: str) -> None:
    output.write_line()
    output.write_line(output.paint(title, "title"))


def _write_models(output: Output, draft: Draft, *, is_plan: bool) -> None:
    """Write the model of each Claude tier and of each route, what retires, and which other settings are new."""
    settings = draft.settings
    new = draft.new_settings
    tiers_by_target: dict[str, list[str]] = {}
    rows = list_tier_mappings(settings, Catalog())
    for row in rows:
        target = f"{row.target}, then {', '.join(row.fallbacks)}" if row.fallbacks else row.target
        tiers_by_target.setdefault(target, []).append(row.tier)
    mapping = [(", ".join(tiers), target) for target, tiers in tiers_by_target.items()]
    output.write_line()
    write_mapping_rows(output, mapping + list_route_rows(settings))
    names = [route.name for route in draft.plan.routes if route.when.get("thinking")]
    thinking = next((route for route in settings.routes if route.name in names), None)
    if thinking is not None:
        tiers = list_condition_texts(thinking.when.tier) or TIERS
        if any(row.tier in tiers and row.target != thinking.targets[0] for row in rows):
            output.write_quiet(
                f"Claude Code asks for thinking in nearly all requests, so most go to {thinking.targets[0]}."
            )
    choices = [choice for name in new for choice in draft.retired.get(name, ())]
    groups: dict[str, list[ModelChoice]] = {}
    for choice in choices:
        groups.setdefault(find_successor_id(choice, settings, date.today()), []).append(choice)
    for successor, retired in groups.items():
        pronoun = "Its" if len({choice.prefixed_id for choice in retired}) == 1 else "Their"
        verb = "would be" if is_plan else "is"
        _warn(output, f"{describe_retirements(retired)}. {pronoun} successor {successor} {verb} imported.")
    for problem in find_problems(settings, Catalog(), date.today()):
        if problem.kind not in MISSING_KEYS:  # they have a list of their own
            remedy = output.paint(problem.remedy, "type") if problem.has_line else problem.remedy
            output.write_line(f"  {output.mark(problem.sign)} {problem.cause}{remedy}")
    others = [name for name in new if not name.endswith("_MODEL") and not name.startswith(_MAPPING_SETTINGS)]
    if others and not is_plan:  # which lists all lines
        output.write_quiet(f"Also imported: {join_with_and(others)}.")


def _write_missing_keys(output: Output, draft: Draft) -> None:
    """Write the variables of keys that the user still has to set, each with the server or entry that it is for."""
    plan = draft.plan
    settings = draft.settings
    models = [target for route in settings.routes for target in route.targets]
    models += [model for row in list_tier_mappings(settings, Catalog()) for model in (row.target, *row.fallbacks)]
    used = {model.partition("/")[0] for model in models}
    missing = {variable: key.setting for variable, key in plan.secrets.items()}
    absent = [key for key in _find_missing_keys(draft) if key.variable not in plan.secrets]
    for key in absent:
        if key.provider in used:
            field = f", with  {format_key_field(key.wanted)}  in {key.table}" if key.table else ""
            missing.setdefault(key.wanted, f"of {key.provider}{field}")
    if missing:
        ways = ", to export, or to copy with --copy-keys" if plan.secrets else ", or to export"
        _write_title(output, f"Keys to write to {draft.env_file}{ways}:")
        width = max(map(len, missing))
        for variable, place in missing.items():
            _warn(output, f"{variable + '=…':<{width + 2}}  {place}")
    if unused := [key.provider for key in absent if key.provider not in used and key.provider in plan.servers]:
        output.write_line()
        output.write_line(f"  Not in use, without a key: {', '.join(unused)}.")


def _find_missing_keys(draft: Draft) -> list[MissingKey]:
    """Return the keys that providers need and that are neither set nor written."""
    plan = draft.plan
    settings = draft.settings
    tables = {table.name: table for table in settings.configured_providers}
    missing = []
    for provider in find_registry(settings):
        table = tables.get(provider.name)
        variable = (provider.key_variable if table is None else table.key_variable) or ""
        names_key = table is not None and table.has_key
        if not variable or settings.keys.get(provider.name):
            continue
        if not names_key and (provider.key_source != "settings" or provider.key_required == "never"):
            continue
        reference = find_referenced_variable(plan.variables.get(variable, ""))
        is_written = variable in plan.variables and not reference  # a ${NAME} inside it needs the environment
        is_set = any(draft.given.find_setting(name, is_list=True) is not None for name in (variable, reference))
        if not is_written and not is_set:
            unnamed_in = f"[providers.{table.name}]" if table is not None and not names_key else ""
            missing.append(MissingKey(provider.prefix, variable, reference or variable, unnamed_in))
    return missing


def list_route_rows(settings: Settings) -> list[tuple[str, str]]:
    """Return the name of each route, such as `route thinking`, with its models."""
    rows = []
    for route in settings.routes:
        first, *others = route.targets
        then = f", {'then ' if route.balance == 'order' else ''}{', '.join(others)}" if others else ""
        above = f" (input above {limit:,} tokens)" if (limit := route.when.input_above) is not None else ""
        rows.append((f"route {route.name}", f"{first}{then}{above}"))
    return rows


def write_mapping_rows(output: Output, rows: Sequence[tuple[str, str]], lead: str = "  ") -> None:
    """Write names with their models, each in two lines if the terminal is too narrow."""
    width = max(count_columns(name) for name, _ in rows)
    lines = [f"{lead}{pad(name, width)}  → {target}" for name, target in rows]
    if output.width and max(map(count_columns, lines)) > output.width:
        lines = [line for name, target in rows for line in (f"{lead}{name}", f"{lead}  → {target}")]
    for line in lines:
        output.write_line(line)
