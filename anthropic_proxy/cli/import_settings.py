"""Command `import`: reads the configuration of another proxy, and writes the same settings for this proxy."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from anthropic_proxy.cli.importing.detection import read_configuration
from anthropic_proxy.cli.importing.plan import FilesToWrite, ImportPlan, prepare_files
from anthropic_proxy.cli.output import Output, describe_input, read_input
from anthropic_proxy.engine.platforms.files import MAX_CONFIG_BYTES
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.routing.router import list_tier_mappings
from anthropic_proxy.gateway.settings import copy_environment
from anthropic_proxy.gateway.settings.masking import mask_env_lines
from anthropic_proxy.gateway.settings.place import require_settings_folder


def import_settings(
    file: Path,
    /,
    *,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Parameters
    ----------
    file
        Configuration file of the other proxy; `-` for standard input.
    dry_run
        Print the new lines and the resulting mapping of the Claude models, and write nothing.
    """
    plan = read_configuration(read_input(file, MAX_CONFIG_BYTES), describe_input(file))
    files = prepare_files(plan, require_settings_folder(copy_environment()))
    output = Output()
    _write_summary(output, plan, describe_input(file), dry_run=dry_run)
    _write_additions(output, files)
    _write_notes(output, plan)
    _write_mapping(output, files)
    if not dry_run:
        files.write()
    output.write_line()
    command = f"anthropic-proxy import {file}" if dry_run else "anthropic-proxy doctor"
    output.write_line(f"  Next:  {output.paint(command, 'type')}")


def _write_summary(output: "Output", plan: "ImportPlan", name: str, *, dry_run: bool) -> None:
    count = len(plan.variables) + len(plan.servers) + len(plan.routes)
    settings = "1 setting" if count == 1 else f"{count} settings"
    notes = "1 note" if len(plan.notes) == 1 else f"{len(plan.notes)} notes"
    verb = "would be imported" if dry_run else "imported"
    output.write_line(f"{name}, configuration of {plan.source}: {settings} {verb}, {notes}.")


def _write_additions(output: "Output", files: "FilesToWrite") -> None:
    for addition in files.additions:
        if addition.added or addition.kept_names:
            output.write_line()
            output.write_line(output.paint(str(addition.path), "title"))
        for line in mask_env_lines(addition.added).strip("\n").splitlines():
            output.write_line(f"  {output.paint('+', 'ok')} {line}" if line else "  +")
        for name in addition.kept_names:
            output.write_line(f"  {output.paint('!', 'warn')} {name} stays as it is: the file has another value.")


def _write_notes(output: "Output", plan: "ImportPlan") -> None:
    if plan.notes:
        output.write_line()
        output.write_line(output.paint("Notes", "title"))
    for setting, reason in plan.notes:
        output.write_line(f"  {output.paint('!', 'warn')} {setting}: {reason}.")


def _write_mapping(output: "Output", files: "FilesToWrite") -> None:
    output.write_line()
    output.write_line(output.paint("Mapping", "title"))
    tiers_by_target: dict[str, list[str]] = {}
    for row in list_tier_mappings(files.settings, Catalog()):
        target = f"{row.target}, then {', '.join(row.fallbacks)}" if row.fallbacks else row.target
        tiers_by_target.setdefault(target, []).append(row.tier)
    width = max(len(", ".join(tiers)) for tiers in tiers_by_target.values())
    for target, tiers in tiers_by_target.items():
        output.write_line(f"  {', '.join(tiers):<{width}}  → {target}")
