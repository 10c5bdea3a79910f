"""Page Settings: each setting with its value and source, and the form that changes a setting in its file: a variable in
`.env`, and a field of a table in `anthropic-proxy.toml`.

A change is shown before it is written. A user cannot change addresses of providers or settings for access here, because
a wrong address, for example, would send keys to another host.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from msgspec import Struct, structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.forms import Form, OpenedForm
from anthropic_proxy.console.dashboard.page import Page, PageContext, PageTable
from anthropic_proxy.console.dashboard.permissions import name_actor
from anthropic_proxy.console.dashboard.web import digest, redirect
from anthropic_proxy.console.ledger.costs import ModelCosts
from anthropic_proxy.console.ledger.engines import EngineReader
from anthropic_proxy.console.ledger.export import ExportTable
from anthropic_proxy.console.ledger.instances import (
    Instance,
    list_names,
    name_instances,
    read_instances,
    read_time,
)
from anthropic_proxy.console.ledger.settings_watch import note_author, read_reach, wait_for_reach
from anthropic_proxy.engine.advice import list_texts
from anthropic_proxy.engine.own_thread import run_in_own_thread
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.errors import ConfigurationError, InvalidRequest, find_similar_choice
from anthropic_proxy.gateway.money import format_price
from anthropic_proxy.gateway.problems import find_problems
from anthropic_proxy.gateway.settings import CONFIG_FILE, Settings, copy_environment, is_fixed_variable, load_settings
from anthropic_proxy.gateway.settings.files import (
    decode_env_text,
    decode_toml,
    format_env_line,
    format_toml_value,
    locked_for_change,
    read_text,
    replace_file,
    update_env_text,
)
from anthropic_proxy.gateway.settings.old_names import decode_field_text
from anthropic_proxy.gateway.settings.table_fields import TableField, find_table_field
from anthropic_proxy.gateway.settings.toml_edit import change_toml_field, describe_unknown_form
from anthropic_proxy.gateway.settings.values import is_secret_variable, mask_setting
from anthropic_proxy.gateway.settings_listing import SettingRow, list_settings
from anthropic_proxy.plugins import RouteResponse

SETTINGS_EDIT_PATH = "/dashboard/settings/edit"
MAX_VALUE_CHARACTERS = 1_000
_OTHERS = "Configuration file and network"
"""Title of the group of settings that are neither variables of `.env` nor plain fields of a table."""


def build_settings_page(context: PageContext) -> Mapping[str, Any]:
    rows = list_settings(context.settings, context.catalog)
    words = context.query.text.lower().split()
    matching = [row for row in rows if all(word in f"{row.name} {row.help}".lower() for word in words)]
    groups: dict[str, list[SettingRow]] = {}
    for row in matching:
        groups.setdefault(row.group or _OTHERS, []).append(row)
    given = [row for row in rows if row.source != "default"]
    verdict = f"{formats.plural(len(given), 'setting')} set; the others have their defaults."
    if words:
        verdict = f"{formats.plural(len(matching), 'setting')} {'matches' if len(matching) == 1 else 'match'}."
    return {
        "set": [] if words else given,
        "editable": list_editable_settings(context.settings, context.catalog),
        "groups": [*groups.items()],
        "instances": [] if words else list_instance_rows(context),
        "is_searched": bool(words),
        "verdict": verdict,
    }


class InstanceRow(NamedTuple):
    """One of several running servers on the page."""

    name: str
    instance: Instance
    is_own: bool
    """True for the server that shows the page."""
    different: Sequence[str]
    """Settings with other values than on this server."""


def list_instance_rows(context: PageContext) -> Sequence[InstanceRow]:
    """Empty: this server is alone, or the database cannot be read."""
    if not (context.can_read and context.server_id):
        return []
    reader = EngineReader(context.connection)
    now, _ = read_time(reader)
    running = read_instances(reader, now).list_running()
    names = name_instances(running)
    this_instance = next((instance for instance in running if instance.id == context.server_id), None)
    if this_instance is None or len(running) < 2:
        return []
    return [
        InstanceRow(
            names[instance.id],
            instance,
            instance is this_instance,
            [
                name
                for name in sorted({*this_instance.settings, *instance.settings})
                if this_instance.settings.get(name) != instance.settings.get(name)
            ],
        )
        for instance in running
    ]


def list_editable_settings(settings: Settings, catalog: Catalog) -> dict[str, SettingRow]:
    """A setting that has its value from elsewhere than its file is left out, because that would override the value in
    the file: the environment of the process, or the old name of a field. The result is empty if the proxy reads no
    files.
    """
    if settings.env_file is None:
        return {}
    env_file = Path(settings.env_file)
    return {
        row.name: row
        for row in list_settings(settings, catalog)
        if row.is_editable
        and (row.source == "default" or row.source.startswith(f"{shorten_home(_find_file(env_file, row.name))} line "))
    }


def _find_file(env_file: Path, name: str) -> Path:
    """Return the file in which a setting is changed."""
    return env_file if find_table_field(name) is None else env_file.with_name(CONFIG_FILE)


_MAX_PROPOSED_MODELS = 300


async def respond_setting_form(form: OpenedForm, sent: Mapping[str, str] | None) -> RouteResponse:
    gateway = form.services.gateway
    settings = gateway.settings
    catalog = gateway.catalog
    if sent is None:
        query = form.request.query
        name = query.get("name", [""])[-1]
        saved = query.get("saved", [""])[-1]
        server = query.get("server", [""])[-1]
        values = await asyncio.to_thread(load_setting_form, settings, catalog, name)
        if saved in ("now", "start"):
            values["saved"] = await describe_saved(settings, name, server, needs_start=saved == "start")
    else:
        name = sent.get("name", "")
        values, is_written = await asyncio.to_thread(submit_setting_form, settings, catalog, sent)
        if is_written:
            await note_author(gateway.store, settings.env_file, name_actor(form.request, form.session))
            page = f"{SETTINGS_EDIT_PATH}?name={quote(name)}"
            if not await form.services.reload_settings():
                return redirect(f"{page}&saved=start")
            if not await wait_for_reach(gateway.settings, name):
                return redirect(f"{page}&saved=now")
            return redirect(f"{page}&saved=now&server={quote(gateway.describe_server().id)}")
        if values["proposal"] is not None:
            own_id = gateway.describe_server().id
            reach = await run_in_own_thread("settings", read_reach, settings, own_id, name)
            values["has_company"] = reach is not None

    def propose_models() -> Sequence[tuple[str, str]]:
        """Return the models that the field proposes, with their prices, and add warnings about others."""
        if not name.endswith("_MODEL") and not name.startswith(("FALLBACK_", "model of [")):
            return ()
        listed = [model.id for model in gateway.list_models()]
        costs = ModelCosts(settings)
        # clients such as Claude Code require that an id begins with `claude`
        models = [model.removeprefix("claude-") for model in listed if "/" in model][:_MAX_PROPOSED_MODELS]
        if models and (proposal := values["proposal"]) is not None:
            warnings = [*proposal.warnings, *list_unlisted_models(proposal.value, listed)]
            values["proposal"] = structs.replace(proposal, warnings=warnings)
        return [(model, describe_price(costs, model)) for model in models]

    values["models"] = await asyncio.to_thread(propose_models)
    return await form.show("setting.html", values)


async def describe_saved(settings: Settings, name: str, server: str, *, needs_start: bool) -> str:
    """`server`: id of the server whose file was written. `needs_start`: it reads files only at its start."""
    assert settings.env_file is not None  # else no setting is editable
    file = _find_file(Path(settings.env_file), name).name
    written = f"Written to {file}. The previous file is {file}.bak."
    if needs_start:
        return f"{written} To use the value, {settings.start_again}."
    reach = await run_in_own_thread("settings", read_reach, settings, server, name)
    if reach is None:
        return f"{written} New requests use the value."
    if not reach.others:
        return f"{written} New requests use the value on all {len(reach.same)} instances."
    verb = "has" if len(reach.others) == 1 else "have"
    return (
        f"Written to {file} of {reach.writer}. The previous file is {file}.bak. New requests use the value on "
        f"{list_names(reach.same)}. {list_names(reach.others)} {verb} another value: change it there too."
    )


def list_unlisted_models(value: str, available: Sequence[str]) -> list[str]:
    """Return a warning for each model of a setting that is not among the `available` models of its provider."""
    warnings = []
    for model in (item.strip().removesuffix("[1m]") for item in value.split(",")):
        prefix, slash, name = model.partition("/")
        lead = f"{prefix}/"
        listed = [
            model.removeprefix("claude-") for model in available if model.removeprefix("claude-").startswith(lead)
        ]
        if slash and listed and not {model, f"{model}:latest"} & {*listed}:
            nearest = find_similar_choice(model, listed)
            hint = f" Did you mean:  {nearest}" if nearest else ""
            warnings.append(f"{prefix} does not list {name}.{hint}")
    return warnings


def describe_price(costs: ModelCosts, name: str) -> str:
    """Return the prices of a model by its id with prefix: `$2.00 in, $8.00 out`. "": they are unknown."""
    prefix, _, model = name.partition("/")
    price = costs.find_price_by_prefix(prefix, model)
    if price is None:
        return ""
    if price.is_free:
        return "free"
    return f"{format_price(price.base.input)} in, {format_price(price.base.output)} out, per million tokens"


def load_setting_form(settings: Settings, catalog: Catalog, name: str) -> dict[str, Any]:
    """Raises `InvalidRequest` if the setting does not exist, or cannot be changed in the dashboard."""
    row = _require_editable(settings, catalog, name)
    value = "" if is_secret_variable(name) or row.source == "default" else row.value
    shown = {"row": row, "meaning": row.help, "value": value, "is_secret": is_secret_variable(name)}
    return {**shown, "proposal": None, "has_company": False, "problem": "", "repeat": "", "saved": ""}


def _require_editable(settings: Settings, catalog: Catalog, name: str) -> SettingRow:
    if (row := list_editable_settings(settings, catalog).get(name)) is not None:
        return row
    raise InvalidRequest(
        f"{name[:60]!r} cannot be changed here. Edit the file or the environment variable in which it is set.",
        code="dashboard-setting",
    )


def submit_setting_form(settings: Settings, catalog: Catalog, form: Mapping[str, str]) -> tuple[dict[str, Any], bool]:
    """The second item of the result is True if the change was written."""
    name = form.get("name", "")
    value = form.get("value", "")
    values = load_setting_form(settings, catalog, name)
    try:
        proposal = propose_change(settings, catalog, name, value)
        entered = digest(f"{form.get('token', '')} {proposal.value}")
        if form.get("before"):
            if proposal.is_secret and entered != form.get("repeat", ""):
                problem = "The two keys differ. Nothing was written. Enter the new key again."
                return {**values, "value": "", "problem": problem}, False
            write_change(proposal, form["before"])
            return {**values, "proposal": proposal}, True
    except InvalidRequest as error:
        return {**values, "value": "" if values["is_secret"] else value, "problem": error.message}, False
    shown, repeat = ("", entered) if proposal.is_secret else (proposal.value, "")
    return {**values, "value": shown, "proposal": proposal, "repeat": repeat}, False


class Proposal(Struct, frozen=True, kw_only=True):
    row: SettingRow
    value: str
    file: Path
    text: str
    before: str
    """Digest of the content of the file before the change. If it has another digest later, the change is rejected."""
    difference: Sequence[tuple[str, str]]
    """Changed lines: sign (`+` or `-`) and text, with masked keys."""
    warnings: Sequence[str]
    """Warnings about the settings that appear only with the change."""

    @property
    def is_secret(self) -> bool:
        """True if the setting is a key. Its value is then never shown."""
        return is_secret_variable(self.row.name)

    @property
    def backup(self) -> Path:
        """Where the previous file is kept."""
        return self.file.with_name(f"{self.file.name}.bak")

    @property
    def needs_restart(self) -> bool:
        return is_fixed_variable(self.row.name)


def propose_change(settings: Settings, catalog: Catalog, name: str, value: str) -> Proposal:
    """Raises `InvalidRequest` for an invalid name or value."""
    row = _require_editable(settings, catalog, name)
    value = value.strip()
    if len(value) > MAX_VALUE_CHARACTERS or not value.isprintable():
        raise InvalidRequest(
            f"{name}: use one line of at most {MAX_VALUE_CHARACTERS} characters.", code="dashboard-setting"
        )
    field = find_table_field(name)
    if "${" in value and field is None:
        raise InvalidRequest(
            f"{name}: a reference such as ${{NAME}} is not allowed here, because pages show its value.",
            code="dashboard-setting",
        )
    assert settings.env_file is not None  # else no setting is editable
    env_file = settings.env_file
    file = _find_file(Path(env_file), name)
    try:
        before = read_text(file)
        if field is None:
            text = update_env_text(before, name, format_env_line(name, value) if value else "")
            changed = load_settings(copy_environment(), PROVIDERS, env_file=env_file, env_draft=text)
        else:
            text = _change_field(file, before, field, value)
            changed = load_settings(copy_environment(), PROVIDERS, env_file=env_file, config_draft=text)
    except ConfigurationError as error:
        text = _shorten_paths(" ".join(error.messages), Path(env_file))
        raise InvalidRequest(text, code="dashboard-setting") from None
    # other lines are not shown, because they may contain keys
    show = partial(_show_line, name) if field is None else partial(_show_field, field)
    difference = [(sign, line) for sign, shown in (("-", before), ("+", text)) if (line := show(shown))]
    present = list_texts(find_problems(settings, catalog, date.today()))
    warnings = list_texts(find_problems(changed, catalog, date.today()))
    return Proposal(
        row=row,
        value=value,
        file=file,
        text=text,
        before=digest(before),
        difference=[] if text == before else difference,
        warnings=[_shorten_paths(text, Path(env_file)) for text in warnings if text not in present],
    )


def _change_field(file: Path, text: str, field: TableField, value: str) -> str:
    """`value` "": the field is removed. Raises `ConfigurationError`."""
    decode_toml(text, file.name)
    decoded = decode_field_text(field.path, value) if value else None
    changed = change_toml_field(text, field.path, decoded)
    if changed is None:
        raise ConfigurationError(describe_unknown_form(file, field.path), code="configuration-file")
    return changed


def _show_line(name: str, text: str) -> str:
    """Return the assignment of a variable in `.env`, with masked keys. "": there is none."""
    value = decode_env_text(text).get(name)
    return "" if value is None else f"{name}={mask_setting(name, value)}"


def _show_field(field: TableField, text: str) -> str:
    """Return the assignment of a field in its table. "": there is none."""
    table, key = field.path
    value = decode_toml(text, CONFIG_FILE).get(table, {}).get(key)
    return "" if value is None else f"{key} = {format_toml_value(value)}"


def write_change(proposal: Proposal, expected_digest: str) -> None:
    """`expected_digest` is the digest of the file that the user saw in the preview. Raises `InvalidRequest` if the file
    has changed since then.
    """
    try:
        proposal.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked_for_change(proposal.file):
            before = read_text(proposal.file)
            if not proposal.before == digest(before) == expected_digest:
                raise InvalidRequest(
                    f"Another change of {proposal.file.name} was written after this preview, so {proposal.row.name} "
                    "was not written. Check its value and show the change again.",
                    code="dashboard-setting",
                )
            if before:
                replace_file(proposal.backup, before, has_keys=True)
            replace_file(proposal.file, proposal.text, has_keys=proposal.is_secret)
    except ConfigurationError as error:
        raise InvalidRequest(f"{error.message} Nothing was changed.", code="dashboard-setting") from None


def _shorten_paths(message: str, env_file: Path) -> str:
    for file in (env_file, env_file.with_name(CONFIG_FILE)):
        message = message.replace(shorten_home(file), file.name)
    return message


PAGE = Page(
    section="Settings",
    template="settings.html",
    build=build_settings_page,
    tables={
        "settings": PageTable(
            lambda context: ExportTable(
                ["setting", "value", "source", "default"],
                [
                    [row.name, row.value, row.source, row.default]
                    for row in list_settings(context.settings, context.catalog)
                ],
            ),
            reads_ledger=False,
        )
    },
    adds_up=False,
)
FORM = Form(section="Settings", page_path="/dashboard/settings", respond=respond_setting_form)
