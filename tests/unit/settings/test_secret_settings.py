"""The table of settings says which values are secrets, for masks, the Helm chart and the reference."""

from functools import partial
from typing import get_type_hints

import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings.table import Setting, list_all_settings
from anthropic_proxy.gateway.settings.values import is_secret_variable, mask_setting
from tests.support.tables import in_one_test

SETTINGS = list_all_settings(PROVIDERS)
ADDRESSES = {
    "DATABASE_URL": "postgresql://user:the-password@db.example.org/proxy?sslpassword=the-password",
    "REDIS_URL": "rediss://:the-password@cache.example.org:6379/0?password=the-password",
}
"""Settings whose addresses may contain a password. Lists of settings show the rest of the address."""


@in_one_test
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_value_that_is_decoded_as_a_secret_is_one_in_the_table(setting: Setting) -> None:
    decode = setting.decode.func if isinstance(setting.decode, partial) else setting.decode
    holds_secret = "Secret" in str(get_type_hints(decode).get("return"))
    assert setting.is_secret == (holds_secret or is_secret_variable(setting.name))


@pytest.mark.parametrize("name", [name for one in SETTINGS if one.is_secret for name in one.names])
def test_a_secret_is_masked_in_lists_of_settings(name: str) -> None:
    assert "the-password" not in mask_setting(name, ADDRESSES.get(name, "x-the-password-0123456789"))
