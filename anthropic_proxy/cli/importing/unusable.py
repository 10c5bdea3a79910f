"""What a plan loses before it is written: variables, keys and routes that the proxy would ignore or reject."""

from collections.abc import Mapping, Sequence

from anthropic_proxy.cli.importing.built_in import find_built_in_registry
from anthropic_proxy.cli.importing.parts import accepts
from anthropic_proxy.cli.importing.plan import ImportPlan, is_reference
from anthropic_proxy.engine.options import ConfiguredProvider
from anthropic_proxy.gateway.settings.sources import Sources, is_placeholder
from anthropic_proxy.gateway.settings.table import MODEL_VARIABLES, list_all_settings
from anthropic_proxy.gateway.settings.values import decode_keys, is_secret_variable, redact_and_shorten
from anthropic_proxy.secrets import redact_key_patterns


def leave_out_unusable_values(plan: ImportPlan, present_tables: Sequence[ConfiguredProvider]) -> None:
    """Remove the variables and keys whose value the proxy would ignore or reject, with a note about each.

    Without its address, a provider would be called at its own: its key, its models and its choice go with it.
    So do those of a table that stays with another address. `present_tables`: those of `anthropic-proxy.toml`.
    """
    moved: dict[str, str] = {}
    for present in present_tables:
        table = plan.servers.get(present.name)
        if table is not None and table.base_url and table.base_url.rstrip("/") != present.base_url:
            moved[present.name] = table.key_variable
    _leave_out_models(plan, moved)
    for name, key in [*plan.secrets.items()]:
        if not accepts(plan, key.setting, "value", key.value, decode_keys):
            plan.leave_out(name)
    values = plan.variables | {name: key.value for name, key in plan.secrets.items()}
    for name, value in values.items():
        if is_secret_variable(name) and is_placeholder(value) and not is_reference(value):
            shown = redact_and_shorten(redact_key_patterns(value))
            reason = f'"{shown}" is a placeholder, so it is not imported. Set {name} to a key of your own'
            is_of_clients = name == "PROXY_API_KEY"  # the command lists the missing keys of providers
            plan.leave_out(name, reason, is_harmless=not is_of_clients, is_error=is_of_clients)
        elif "${" in value and not is_secret_variable(name):  # it would show the value of a key to a server
            reason = "it refers to another variable, and only keys may, so it is not imported. Write its value"
            plan.leave_out(name, reason, is_error=True)
    given = Sources(values, None)
    present_names = [present.name for present in present_tables]
    new_names = [name for name, table in plan.servers.items() if table.base_url]
    for setting in list_all_settings(tuple(find_built_in_registry()), (*present_names, *new_names)):
        for name in setting.names:
            variable = given.find_setting(name) if name in values else None  # a reference is none
            if variable and not accepts(plan, plan.origins.get(name, name), "value", variable.text, setting.decode):
                plan.leave_out(name)
                _leave_out_provider(plan, name, values)


def _leave_out_provider(plan: ImportPlan, address: str, values: Mapping[str, str]) -> None:
    """Remove what belongs to a provider without the variable `address`."""
    provider = next((row for row in find_built_in_registry() if row.base_url_variable == address), None)
    if provider is None:
        return
    names = [provider.key_variable or ""]
    if values.get("PREFERRED_PROVIDER") in (provider.name, provider.prefix):
        other_prefixes = {row.prefix for row in find_built_in_registry()} - {provider.prefix}
        models = {name: values[name] for name in MODEL_VARIABLES if name in values}
        names.append("PREFERRED_PROVIDER")
        names += [name for name, model in models.items() if model.partition("/")[0] not in other_prefixes]
    for name in names:
        reason = f"it is not imported, because it belongs to {plan.origins.get(address, address)}"
        plan.leave_out(name, reason, is_error=True)


def _leave_out_models(plan: ImportPlan, moved: Mapping[str, str]) -> None:
    """Remove the keys, the routes and the variables that name a model of a table with another address.

    `moved`: NAME of such a `[providers.NAME]` → variable of its key.
    """

    def find_reason(targets: Sequence[str]) -> str:
        name = next((name for target in targets if (name := target.partition("/")[0]) in moved), "")
        return f"it is not imported, because [providers.{name}] has another address" if name else ""

    for variable, value in [*plan.variables.items()]:
        is_model = variable in (*MODEL_VARIABLES, "PREFERRED_PROVIDER") or variable.startswith("FALLBACK_")
        if is_model and (reason := find_reason(value.split(","))):
            plan.leave_out(variable, reason, is_error=True)
    kept = []
    for route in plan.routes:
        if reason := find_reason(route.targets):
            plan.add_note(f'the route "{route.name}"', reason, is_error=True)
        else:
            kept.append(route)
    plan.routes = kept
    for name, key_variable in moved.items():
        plan.leave_out(key_variable, find_reason([name]), is_error=True)
