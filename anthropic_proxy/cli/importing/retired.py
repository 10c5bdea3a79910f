"""Replaces the retired models of a plan by their successors."""

from datetime import date
from pathlib import Path

from msgspec import structs

from anthropic_proxy.cli.importing.files import FilesToWrite, prepare_files
from anthropic_proxy.cli.importing.plan import ImportPlan
from anthropic_proxy.cli.importing.tables import ImportedRoute, ServerTable
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.routing.choices import ModelChoice, choose_model, find_preferred_provider
from anthropic_proxy.engine.routing.replacements import find_successor_id, join_equal_targets
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.table import MODEL_VARIABLES


def replace_retired_models(plan: ImportPlan, folder: Path, today: date) -> dict[str, list[ModelChoice]]:
    """Write the successors of the models that were retired on `today` or earlier.

    A setting that the files in `folder` have already with the retired model stays, and so does one with another
    value. Return name of a setting → its retired models.
    """
    files = prepare_files(plan, folder)
    changed = {name for change in files.changes for name in change.added_settings} | _list_kept_names(files)
    successors = _Successors(files.settings, today)
    variables = plan.variables.copy()
    servers = plan.servers.copy()
    routes = plan.routes.copy()
    for variable, value in variables.items():
        if variable in changed:
            plan.variables[variable] = successors.replace_in_variable(variable, value)
    plan.routes = [successors.replace_in_route(route) if route.label in changed else route for route in routes]
    for name, table in servers.items():
        if f"[providers.{name}]" in changed:
            plan.servers[name] = successors.replace_in_table(name, table)
    kept_names = _list_kept_names(prepare_files(plan, folder))
    plan.variables |= {name: value for name, value in variables.items() if name in kept_names}
    plan.servers |= {name: table for name, table in servers.items() if f"[providers.{name}]" in kept_names}
    pairs = zip(plan.routes, routes, strict=True)
    plan.routes = [old if old.label in kept_names else new for new, old in pairs]
    return {name: choices for name, choices in successors.retired.items() if name not in kept_names}


def _list_kept_names(files: FilesToWrite) -> set[str]:
    """Return the names of the settings that the files set to another value already."""
    return {value.name for change in files.changes for value in change.kept}


class _Successors:
    """Replaces the models that are retired at a date. `settings`: with the new lines."""

    def __init__(self, settings: Settings, today: date) -> None:
        self._settings = settings
        self._today = today
        self._catalog = Catalog()
        self._registry = find_registry(settings)
        self._preferred = find_preferred_provider(settings, self._catalog)
        self.retired: dict[str, list[ModelChoice]] = {}
        """Name of a setting → its retired models."""

    def _replace(self, label: str, choice: ModelChoice, text: str) -> str:
        successor = find_successor_id(choice, self._settings, self._today)
        if successor:
            self.retired.setdefault(label, []).append(choice)
        return successor or text

    def _replace_name(self, label: str, name: str) -> str:
        choice = choose_model(name, self._preferred, self._settings, self._catalog, allow_other_provider=True)
        return self._replace(label, choice, name)

    def replace_in_variable(self, variable: str, value: str) -> str:
        if variable in MODEL_VARIABLES:
            return self._replace_name(variable, value)
        if not variable.startswith("FALLBACK_"):
            return value
        return ",".join(dict.fromkeys(self._replace_name(variable, name.strip()) for name in value.split(",")))

    def replace_in_route(self, route: ImportedRoute) -> ImportedRoute:
        names = [self._replace_name(route.label, target) for target in route.targets]
        targets, weights = join_equal_targets(names, route.weights)
        if len(targets) == 1:
            return structs.replace(route, targets=targets, balance="order", weights=[])
        return structs.replace(route, targets=targets, weights=weights)

    def replace_in_table(self, name: str, table: ServerTable) -> ServerTable:
        provider = self._registry.find_by_prefix(name)
        if provider is None:
            return table
        in_use: dict[str, dict[str, int | str]] = {}
        for model, fields in table.models.items():
            choice = ModelChoice(provider=provider, model=model, reason="")
            kept = self._replace(f"[providers.{name}]", choice, f"{name}/{model}").removeprefix(f"{name}/")
            others = in_use.get(kept, {})
            in_use[kept] = {**others, **fields} if kept == model else {**fields, **others}
        return structs.replace(table, models=in_use)
