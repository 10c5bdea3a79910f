"""Old names of settings: variables of earlier versions whose setting is now a field of anthropic-proxy.toml."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.engine.options import AutoMode
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings, list_variables, load_settings
from anthropic_proxy.gateway.settings.changes import list_changes
from anthropic_proxy.gateway.settings.old_names import OLD_NAMES, find_moved_settings
from anthropic_proxy.gateway.settings.sources import Sources
from anthropic_proxy.gateway.settings.table_fields import list_table_fields

EXAMPLES: Mapping[str, tuple[str, Any]] = {
    "AUTO_MODE": ("Off", "off"),
    "AUTO_MODE_MODEL": ("openai/gpt-4.1", "openai/gpt-4.1"),
    "AUTO_MODE_TIMEOUT": ("7.5", 7.5),
    "PRICE_UPDATE_DAYS": ("7", 7),
    "PRICE_UPDATE_URL": ("https://prices.example.org/list", "https://prices.example.org/list"),
    "SIGN_IN_DAYS": ("7", 7),
    "SIGN_IN_TOKEN_MINUTES": ("5", 5),
    "SIGN_IN_NOTICE": ("Questions: ask us", "Questions: ask us"),
    "LIMIT_CONTACT": ("https://go.example.org/limits", "https://go.example.org/limits"),
    "KEYS_PER_PERSON": ("3", 3),
    "OIDC_SCOPES": ("email  groups,profile", ["email", "groups", "profile"]),
    "OIDC_ROLE_CLAIM": ("realm_access.roles", "realm_access.roles"),
    "OIDC_ABSENT_GROUPS": ("keep", "keep"),
    "OIDC_EMAIL_CLAIM": ("preferred_username", "preferred_username"),
    "OIDC_ADMINS": ("platform, ann@example.org,platform", ["platform", "ann@example.org", "platform"]),
    "OIDC_VIEWERS": ("finance", ["finance"]),
    "OIDC_TEAM_ADMINS": ("leads", ["leads"]),
    "OIDC_MEMBERS": ("developers", ["developers"]),
    "OIDC_DOMAINS": ("@Example.org", ["@Example.org"]),
}
"""Old name → a text of the variable, and the value of the field."""


def load(file: str = "", **environ: str) -> Settings:
    return load_settings(environ, PROVIDERS, config_draft=file)


def errors_of(file: str = "", **environ: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(file, **environ)
    return list(caught.value.messages)


def test_an_old_name_is_no_other_setting_and_its_place_is_a_field() -> None:
    places = [old.path for old in OLD_NAMES.values()]
    assert {*places} <= {field.path for field in list_table_fields()}
    assert len({*places}) == len(places)
    assert not {*OLD_NAMES} & {*list_variables(PROVIDERS)}
    assert EXAMPLES.keys() == OLD_NAMES.keys()


def write_field(name: str) -> str:
    """Return the lines of the configuration file with the value of an example."""
    *table, field = OLD_NAMES[name].path
    value = EXAMPLES[name][1]
    text = (
        value if isinstance(value, int | float) else str(value).replace("'", '"') if isinstance(value, list) else None
    )
    return f"[{'.'.join(table)}]\n{field} = {f'{value!r}' if text is None else text}\n".replace("'", '"')


SETTINGS = {"OIDC_ISSUER": "https://login.example.org", "OIDC_CLIENT_ID": "proxy", "DASHBOARD_URL": "https://p.example"}
SETTINGS |= {"VIRTUAL_KEYS": "true", "SIGN_IN_SECRET": "a" * 32}


@pytest.mark.parametrize("name", OLD_NAMES)
def test_an_old_name_means_the_same_as_its_field_and_warns(name: str) -> None:
    old = load(**SETTINGS, **{name: EXAMPLES[name][0]})
    new = load(write_field(name), **SETTINGS)
    place = f"{OLD_NAMES[name].path[1]} of [{OLD_NAMES[name].path[0]}]"
    for field in ("auto_mode", "price_update_days", "price_update_url", "oidc", "sign_in", "limit_contact"):
        assert getattr(old, field) == getattr(new, field)
    assert old.keys_per_person == new.keys_per_person
    assert old.raw_values[place] == new.raw_values[place]
    assert [*new.warnings] == []
    assert [*old.warnings] == [
        f"Settings whose old names only this version still reads: {name} (environment) is now {place}. Their place is "
        "anthropic-proxy.toml. To move them:  anthropic-proxy config check --write"
    ]


def test_several_old_names_are_one_warning() -> None:
    settings = load(AUTO_MODE="client", AUTO_MODE_MODEL="gpt-4.1", AUTO_MODE_TIMEOUT="5")
    assert settings.auto_mode == AutoMode(mode="client", model="gpt-4.1", timeout_seconds=5)
    assert [*settings.warnings] == [
        "Settings whose old names only this version still reads: AUTO_MODE (environment) is now mode of [auto_mode], "
        "AUTO_MODE_MODEL (environment) is now model of [auto_mode] and AUTO_MODE_TIMEOUT (environment) is now timeout "
        "of [auto_mode]. Their place is anthropic-proxy.toml. To move them:  anthropic-proxy config check --write"
    ]


def test_an_invalid_value_names_the_variable_in_which_it_stands(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("AUTO_MODE_TIMEOUT=soon\nAUTO_MODE_MODEL=a b\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings({"AUTO_MODE": "chekc"}, PROVIDERS, env_file=str(tmp_path / ".env"))
    env = tmp_path / ".env"
    assert [*caught.value.messages] == [
        'AUTO_MODE is "chekc". Use "check", "client" or "off". Set in the environment. Did you mean:  AUTO_MODE=check',
        f'AUTO_MODE_TIMEOUT is "soon". Use a number above 0 and up to 86,400. Set in {env}, line 1.',
    ]


@pytest.mark.parametrize("text", ["nan", "-NaN", "inf", "1e400"])
def test_a_number_that_is_not_finite_is_rejected_as_it_was_written(text: str) -> None:
    assert errors_of(AUTO_MODE_TIMEOUT=text) == [
        f'AUTO_MODE_TIMEOUT is "{text}". Use a number above 0 and up to 86,400. Set in the environment.'
    ]


@pytest.mark.parametrize(
    ("version", "is_read"),
    [
        ("0.1rc1", True),
        ("0.1.dev3+g12", True),
        ("0", True),
        ("0.2rc1", False),
        ("1", False),
        ("2a1.0", False),
        ("0rc5", True),
    ],
)
def test_each_form_of_a_version_is_known(version: str, is_read: bool) -> None:
    assert find_moved_settings(Sources({}, None), version) == {}
    moved = find_moved_settings(Sources({"AUTO_MODE": "off"}, None), version)
    assert bool(moved) is is_read


def test_two_homes_with_different_values_are_an_error() -> None:
    assert load('[auto_mode]\nmode = "off"\n', AUTO_MODE="off").auto_mode.mode == "off"
    assert errors_of('[auto_mode]\nmode = "check"\n', AUTO_MODE="off") == [
        "AUTO_MODE and mode of [auto_mode] in anthropic-proxy.toml are the same setting and have different values. "
        "Remove AUTO_MODE, which is the old name. Set in the environment."
    ]


def test_an_empty_or_placeholder_value_counts_as_not_set() -> None:
    settings = load('[auto_mode]\nmode = "off"\n', AUTO_MODE="", AUTO_MODE_MODEL="your-model")
    assert (settings.auto_mode.mode, settings.auto_mode.model) == ("off", None)


@pytest.mark.parametrize("name", OLD_NAMES)
def test_a_later_version_does_not_start_if_a_rule_would_be_looser_and_else_warns(name: str) -> None:
    old, sources = OLD_NAMES[name], Sources({name: EXAMPLES[name][0]}, None)
    assert find_moved_settings(sources, "0.2.0") == {}
    place = f"{old.path[1]} of [{old.path[0]}] in anthropic-proxy.toml"
    if not old.guards:
        sources.errors.require_empty()
        assert sources.list_warnings() == [f"{name} (environment) is no longer read. Set {place}, and remove {name}."]
        return
    with pytest.raises(ConfigurationError) as caught:
        sources.errors.require_empty()
    assert [*caught.value.messages] == [
        f"{name} (environment) is no longer read, and a rule of access would be looser without it. Set {place}, and "
        f"remove {name}."
    ]


def test_a_change_of_a_field_is_reported_with_its_values() -> None:
    before, after = load('[auto_mode]\nmode = "off"\n'), load("[auto_mode]\ntimeout = 5\n")
    assert list_changes(before, after) == {"mode of [auto_mode]": ("off", None), "timeout of [auto_mode]": (None, "5")}
