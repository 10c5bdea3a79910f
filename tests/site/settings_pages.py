"""`.env.example` and docs/reference/settings.md, from the table of all settings."""

import textwrap
from collections.abc import Iterator

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings.old_names import LAST_READING, OLD_NAMES
from anthropic_proxy.gateway.settings.table import Setting, SettingGroup, is_fixed_variable, list_setting_groups
from anthropic_proxy.gateway.settings.table_fields import list_table_fields, read_field_help
from tests.support.paths import ROOT

EXAMPLE = ROOT / ".env.example"
_SOURCE = "anthropic_proxy/gateway/settings/settings.toml"
_COLUMNS = 120
_HEAD = f"""\
# Copy to .env in the folder of the settings files and set the variables that you need: in a checkout its top folder,
# else ~/.config/anthropic-proxy (docs/guide/configuration.md). A placeholder (your-…) counts as not set.
# The environment takes precedence over .env, and command-line options over both.
# Written by `python3 scripts/fix.py` from {_SOURCE}: change that instead.
"""
_PAGE = f"""\
# Settings

<!-- Written by `python3 scripts/fix.py` from {_SOURCE}: change that instead. -->

Every variable of the environment or of `.env`. [Configuration](../guide/configuration.md) describes their precedence.
An empty value counts as not set. Names are links: `#openai_api_key`. A change of a variable with the mark *Next start*
needs one; a [reload](../guide/operations.md#reload) applies all others.
"""


def written_example() -> str:
    blocks = [_HEAD]
    for group in list_setting_groups(PROVIDERS):
        lines = [f"## {group.title}", ""]
        lines += [*_comment(group.intro), ""] if group.intro else []
        for settings in _group_by_help(group):
            lines += _comment(settings[0].help)
            for setting in settings:
                # a copied file shows where keys go; their placeholders count as not set
                mark = "" if setting.field.startswith("keys.") else "# "
                lines += [f"{mark}{name}={_find_value(setting)}" for name in setting.names]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def written_page() -> str:
    blocks = [_PAGE]
    for group in list_setting_groups(PROVIDERS):
        intro = f"{_escape(group.intro)}\n\n" if group.intro else ""
        rows = "\n".join(
            f"| {'<br>'.join(_name_cell(each) for each in settings)} | {_meaning_cell(settings[0])} |"
            for settings in _group_by_help(group)
        )
        table = f"| variable = default or example | meaning |\n| --- | --- |\n{rows}\n"
        blocks.append(f"## {group.title}\n\n{intro}{table}")
    blocks += [_format_table_fields(), _format_old_names()]
    return "\n".join(blocks)


def _format_table_fields() -> str:
    helps = read_field_help()
    rows = "".join(
        f"| `[{field.path[0]}]` `{field.path[1]}`{f' = `{field.default}`' if field.default else ''} | "
        f"{_escape(helps[field.name])} |\n"
        for field in list_table_fields()
    )
    return f"""\
## Tables of the configuration file

Every field of these tables of `anthropic-proxy.toml` that is a text, a number or a list of texts.
[Configuration](../guide/configuration.md#configuration-file) describes the file and its other tables.

| field = default | meaning |
| --- | --- |
{rows}"""


def _format_old_names() -> str:
    rows = "".join(
        f'| <a id="{old.name.lower()}"></a>`{old.name}` | `[{old.path[0]}]` `{old.path[1]}` | '
        f"{'does not start' if old.guards else 'warns, and ignores it'} |\n"
        for old in OLD_NAMES.values()
    )
    version = ".".join(map(str, LAST_READING))
    return f"""\
## Old names

Variables of earlier versions. Version {version} still reads them, with a warning. A value in the file and another one
in the variable are an error.

| variable | place in `anthropic-proxy.toml` | a later version with the variable |
| --- | --- | --- |
{rows}"""


def _group_by_help(group: SettingGroup) -> Iterator[list[Setting]]:
    """Yield settings that follow each other and have the same meaning."""
    found: list[Setting] = []
    for setting in group.settings:
        if found and found[-1].help != setting.help:
            yield found
            found = []
        found.append(setting)
    yield found


def _find_value(setting: Setting) -> str:
    value = setting.example or setting.find_default()
    return value.replace("{region}", "us-east-1").replace("{resource}", "your-resource")


def _name_cell(setting: Setting) -> str:
    value = _find_value(setting)
    shown = "" if not value or value.startswith("your-") else f" = `{value}`"
    return "<br>".join(f'<a id="{name.lower()}"></a>`{name}`{shown}' for name in setting.names)


def _meaning_cell(setting: Setting) -> str:
    mark = " *Next start.*" if is_fixed_variable(setting.name) else ""
    return f"{_escape(setting.help)}{mark}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _COLUMNS, initial_indent="# ", subsequent_indent="# ", break_long_words=False)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
