"""Command `import`: reads the configuration of another proxy, and writes the same settings for this proxy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from anthropic_proxy.cli.importing.plan import FilesToWrite, ImportPlan
    from anthropic_proxy.cli.output import Output


def import_settings(
    file: Path,
    /,
    *,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write the settings of another proxy's configuration as .env and anthropic-proxy.toml.

    The format is detected: config.json of claude-code-router, config.yaml of LiteLLM's proxy, or .env of an earlier
    proxy. Lines are added to the settings files in their folder; existing ones are never changed. Keys are copied only
    from a .env. For other formats, the new lines refer to the variables that contain the keys. Rules that depend on
    the request become [[routes]]. Entries with an equivalent are renamed or converted. Every other entry that is set
    gets a line that says what happens to it.

    Parameters
    ----------
    file
        Configuration file of the other proxy; `-` for standard input.
    dry_run
        Print the new lines and the resulting mapping of the Claude models, and write nothing.
    """
    from anthropic_proxy.cli.importing.detection import read_configuration  # noqa: PLC0415
    from anthropic_proxy.cli.importing.plan import prepare_files  # noqa: PLC0415
    from anthropic_proxy.cli.output import (  # noqa: PLC0415
        Output,
        describe_input,
        read_input,
    )
    from anthropic_proxy.settings import copy_environment  # noqa: PLC0415
    from anthropic_proxy.settings.place import require_settings_folder  # noqa: PLC0415
    from anthropic_proxy.settings.text_file import MAX_CONFIG_BYTES  # noqa: PLC0415

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
    from anthropic_proxy.settings.masking import mask_env_lines  # noqa: PLC0415

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
    from anthropic_proxy.routing.catalog import Catalog  # noqa: PLC0415
    from anthropic_proxy.routing.router import list_tier_mappings  # noqa: PLC0415

    output.write_line()
    output.write_line(output.paint("Mapping", "title"))
    tiers_by_target: dict[str, list[str]] = {}
    for row in list_tier_mappings(files.settings, Catalog()):
        target = f"{row.target}, then {', '.join(row.fallbacks)}" if row.fallbacks else row.target
        tiers_by_target.setdefault(target, []).append(row.tier)
    width = max(len(", ".join(tiers)) for tiers in tiers_by_target.values())
    for target, tiers in tiers_by_target.items():
        output.write_line(f"  {', '.join(tiers):<{width}}  → {target}")
