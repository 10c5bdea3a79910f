"""The last step of `init`: shows the new lines, writes them after a confirmation, and names what comes next."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date

from msgspec import Struct, structs

from anthropic_proxy.cli.importing.files import FilesToWrite, prepare_files
from anthropic_proxy.cli.importing.plan import ImportPlan
from anthropic_proxy.cli.importing.report import list_route_rows, write_mapping_rows
from anthropic_proxy.cli.init.answers import ChosenProvider, Session
from anthropic_proxy.cli.init.models import find_offered_models, is_too_small, retires_soon, sort_models
from anthropic_proxy.cli.local_proxy import reload_proxies
from anthropic_proxy.console import formats
from anthropic_proxy.engine.options import ModelTable
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.platforms.shells import quote_word
from anthropic_proxy.engine.providers import PROVIDERS, Provider
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.routing.model_listing import TierMapping, list_tier_mappings
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.errors import join_with_and
from anthropic_proxy.gateway.prices.price_list import has_price_package
from anthropic_proxy.gateway.problems import find_problems
from anthropic_proxy.gateway.settings import CONFIG_FILE, ENV_FILE, Settings, load_settings
from anthropic_proxy.gateway.settings.sources import Sources
from anthropic_proxy.gateway.settings.table import list_provider_settings
from anthropic_proxy.gateway.settings.values import mask_env_lines, mask_setting


class SettingDifference(Struct, frozen=True):
    """Setting with another value than the one that `init` would write."""

    name: str
    place: str
    """`.env line 4`, `environment`."""
    current: str
    wanted: str


class Written(Struct, frozen=True):
    """What the settings files have now."""

    backend: ChosenProvider
    models: Mapping[str, str]
    staying: Sequence[str]
    """Values of settings that stay as they are, such as a model that replies already."""


def write_settings(
    session: Session, backend: ChosenProvider, models: Mapping[str, str], describing_model: str
) -> Written | None:
    """Show the new lines, ask for confirmation and write them. None: the user does not want them.

    `describing_model`: that of `[images]`. "": none.
    """
    provider = backend.provider
    output = session.output
    asks = session.questions
    # a proxy that another shell starts would otherwise call another server than the tested one
    sources = Sources(session.environ, None)
    texts = [setting.find_text(sources) for setting in list_provider_settings(provider)]
    exported = {
        text.variable: text.text for text in texts if text and mask_setting(text.variable, text.text) == text.text
    }
    lines = {"PREFERRED_PROVIDER": provider.name, **exported, **backend.variables, **models}
    differences = find_differences(lines, session.environ, session.settings.env_file)
    replaced = [difference.name for difference in differences if asks is not None and difference.place != "environment"]
    staying = [
        difference for difference in differences if difference.name not in replaced or difference.place == "environment"
    ]
    for difference in differences:
        if difference not in staying:
            session.warn(f"{difference.place}: {difference.name}={difference.current} → {difference.wanted}")
    for difference in staying:
        session.warn(
            f"{difference.place} sets {difference.name}={difference.current}, which stays. "
            f"For {provider.prefix}, change it to  {difference.name}={difference.wanted}"
        )
    plan = ImportPlan("init")
    plan.variables = {**lines}
    plan.describing_model = describing_model
    if backend.table is not None:
        described = backend.table.models
        names = dict.fromkeys((*(model.partition("/")[2] for model in models.values()), *described))
        table = structs.replace(backend.table, models={name: described.get(name, {}) for name in names})
        plan.servers[backend.provider.name] = table
    files = prepare_files(plan, session.folder, replaced)
    for text in _list_missing_fields(session, backend, files.settings):
        place = f"[providers.{provider.name}] of {shorten_home(session.folder / CONFIG_FILE)}"
        session.warn(f"{place} {text}")
    told = {difference.name for difference in differences}  # reported or replaced
    for text in describe_tier_overrides(backend.settings, provider, told):
        session.warn(text)
    _report_routes(session, files.settings)
    if not any(change.added for change in files.changes):
        output.write_line(f"  {session.folder / ENV_FILE} needs no new line.")
    elif not _write_files(session, files, replaces=bool(replaced)):
        return None
    return Written(backend, models, [difference.current for difference in staying])


def report_next_steps(session: Session, written: Written) -> None:
    """Let a running proxy read the new settings, or tell the user why it does not, and name the next commands."""
    variables = reload_proxies(session.output, session.settings, session.folder / ENV_FILE)
    backend = written.backend
    variable = backend.table.key_variable if backend.table else backend.provider.key_variable or ""
    # a new shell starts the proxy without a key that only the environment of this shell has
    saved = Sources({}, session.settings.env_file).find_setting(variable, is_list=True)
    if session.find_present_key(variable, is_exported=True) and not saved and variable not in variables:
        session.warn(
            f"{variable} stays in the environment. Set it in each shell that starts the proxy, or write the key to "
            f"{shorten_home(session.folder / ENV_FILE)}."
        )
    settings = load_settings(session.environ, PROVIDERS, env_file=str(session.folder / ENV_FILE))
    session.output.write_problems(find_problems(settings, Catalog(), date.today()))
    _write_next_commands(session, written)


def _write_files(session: Session, files: FilesToWrite, *, replaces: bool) -> bool:
    """Return False if the user does not want the lines."""
    output = session.output
    asks = session.questions
    for change in files.changes:
        if change.added:
            kind = "New and changed" if replaces and change.path.name == ENV_FILE else "New"
            output.write_line(f"  {kind} lines of {change.path}:")
        for line in mask_env_lines(change.added).strip("\n").splitlines():
            output.write_line(f"    {output.paint(line, 'type')}".rstrip())
    instead = "--yes, which changes no line" if replaces else "--yes"
    if asks is not None and not asks.confirm("Write them?", default=True, instead=instead):
        output.write_notice("Nothing was written.")
        return False
    files.write(output)
    output.write_line(f"  {output.mark('✓')} {'Wrote' if replaces else 'Added'} the lines.")
    return True


def _list_missing_fields(session: Session, backend: ChosenProvider, written: Settings) -> Iterator[str]:
    """Yield what a table of the configuration file lacks that stays as it is. `written`: with the new lines."""
    table = next((row for row in written.configured_providers if row.name == backend.provider.name), None)
    if backend.table is None or table is None:
        return
    variable = backend.table.key_variable
    if variable and not (table.has_key and table.key_variable == variable):
        other = "another api_key" if table.has_key else "no api_key"
        yield f'has {other}, and stays. For {table.name}, write there  api_key = {{ env = "{variable}" }}'
    for name, model in session.options.deployments.items():
        if table.models.get(name, ModelTable()).model_of != model:
            wanted = f'[providers.{table.name}.models."{name}"]  model_of = "{model}"'
            yield f"has another model for {name}, and stays. Write there  {wanted}"


def _report_routes(session: Session, written: Settings) -> None:
    """Name the routes, which choose other models than the written ones. `written`: with the new lines."""
    if not (routes := written.routes):
        return
    count = formats.plural(len(routes), "route")
    verb, pronoun = ("comes", "it") if len(routes) == 1 else ("come", "them")
    session.output.write_line(f"  {session.output.mark('!')} {count} {verb} before these models:")
    write_mapping_rows(session.output, list_route_rows(written), "    ")
    numbers = list(dict.fromkeys(route.origin.rpartition(" ")[2] for route in routes))  # one line may have several
    places = f"{'line' if len(numbers) == 1 else 'lines'} {join_with_and(numbers)}"
    tables = "its table [[routes]]" if len(routes) == 1 else "their tables [[routes]]"
    if len(numbers) < len(routes):
        tables = "the list routes"
    text = f"To remove {pronoun}, delete {tables} in {shorten_home(session.folder / CONFIG_FILE)}, {places}."
    session.output.write_line(f"    {session.output.paint(text, 'quiet')}")


def _write_next_commands(session: Session, written: Written) -> None:
    backend = written.backend
    models = written.models
    today = date.today()
    rows = [("  Next:", "anthropic-proxy code", "in the folder of your project")]
    names = [name.partition("/")[2] for name in models.values()]
    listed = find_offered_models(backend) if backend.models and names else {}
    usable = {name: facts for name, facts in listed.items() if not (is_too_small(facts) or retires_soon(facts, today))}
    targets = {name: _find_target(backend, name) for name in usable}
    usable = {name: facts for name, facts in usable.items() if targets[name].capabilities.tools}
    # another server than the vendor's may have only the API of the chosen models
    if usable and backend.provider.name in backend.settings.base_urls:
        wires = {_find_target(backend, name).wire for name in names}
        usable = {name: facts for name, facts in usable.items() if targets[name].wire in wires}
    used = {*names, *(value.removeprefix(f"{backend.provider.prefix}/") for value in written.staying)}
    if other := next((name for name in sort_models(backend, usable, "", today) if name not in used), ""):
        command = f"anthropic-proxy code --model {quote_word(f'{backend.provider.prefix}/{other}')}"
        rows.append(("  Or:", command, "for another model"))
    if not has_price_package():
        is_free = names and {name for name, facts in listed.items() if facts.is_free}.issuperset(names)
        extras, purpose = ("dashboard", "charts") if is_free else ("dashboard prices", "costs and charts")
        rows.append(("  Then:", f"anthropic-proxy add {extras}", f"for {purpose}"))
    for lead, command, purpose in rows:
        session.output.write_step(f"{lead:<8}", command, purpose)


def _find_target(backend: ChosenProvider, model: str) -> Target:
    query = RoutingQuery(f"{backend.provider.prefix}/{model}")
    return build_plan(query, backend.settings, Catalog()).targets[0]


def find_differences(
    lines: Mapping[str, str], environ: Mapping[str, str], env_file: str | None
) -> list[SettingDifference]:
    """Return the variables with another value than in `lines` (variable → value), also those that are no setting.

    A variable of the environment overrides `.env`, so both are compared.
    """
    differences = []
    for name, value in lines.items():
        for sources in (Sources({}, env_file), Sources(environ, None)):
            present = sources.find_setting(name, is_list=True)
            if present is not None and present.text != value:
                current = mask_setting(name, present.text)
                wanted = mask_setting(name, value)
                differences.append(SettingDifference(name, present.origin, current, wanted))
    return differences


def describe_tier_overrides(settings: Settings, provider: Provider, told: Collection[str]) -> list[str]:
    """Return a text for each setting that sends requests for Claude models to another provider than `provider`, except
    the settings `told`.
    """
    tiers: dict[str, list[TierMapping]] = {}
    for row in list_tier_mappings(structs.replace(settings, preferred_provider=provider.name), Catalog()):
        variable = row.setting.name if row.setting is not None else ""
        if variable in settings.origins and variable not in told and not row.target.startswith(f"{provider.prefix}/"):
            tiers.setdefault(variable, []).append(row)
    texts = []
    for variable, rows in tiers.items():
        default = provider.default_small_model if rows[0].tier == "haiku" else provider.default_big_model
        value = mask_setting(variable, settings.raw_values[variable].reveal())
        texts.append(
            f"{settings.origins[variable]} sets {variable}={value}, which stays: {', '.join(row.tier for row in rows)} "
            f"requests are sent to {rows[0].target}. For {provider.prefix}, change it to  "
            f"{variable}={provider.prefix}/{default or '<model>'}"
        )
    return texts
