import os
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.options import Timeouts
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings, list_variables, load_settings
from anthropic_proxy.gateway.settings.key_references import UNRESOLVED_KEY
from anthropic_proxy.secrets import Secret
from tests.support.paths import ROOT
from tests.support.tables import in_one_test

KEY = "sk-proj-0123456789abcdef4f2a"


def load(environ=None, text=None, folder=None):
    """Load settings from an environment and the text of a `.env` file, which errors call `.env`."""
    if text is None:
        return load_settings(environ or {}, PROVIDERS, env_file=None)
    path = folder / ".env"
    path.write_text(text, encoding="utf-8")
    return load_settings(environ or {}, PROVIDERS, env_file=str(path))


def refusal(**environ):
    with pytest.raises(ConfigurationError) as caught:
        load(environ)
    return caught.value.message


def keys_of(settings, provider="openai"):
    return [key.reveal() for key in settings.keys.get(provider, ())]


def test_nothing_set_gives_the_defaults():
    settings = load()
    assert settings == Settings()
    assert (settings.host, settings.port, settings.vertex_location) == ("127.0.0.1", 8082, "us-central1")
    assert settings.timeouts == Timeouts(connect_seconds=10, first_byte_seconds=600, idle_seconds=300)


def test_a_missing_file_is_no_file(tmp_path):
    file = str(tmp_path / "none")
    assert load_settings({}, PROVIDERS, env_file=file) == Settings(env_file=file)


@given(st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=20, max_size=60))
def test_a_random_key_is_no_placeholder(text):
    assert keys_of(load({"OPENAI_API_KEY": f"sk-{text}"})) == [f"sk-{text}"]


def test_preferred_provider_accepts_every_name_and_alias_in_any_case():
    names = {"gemini": "google", "vertex_ai": "vertex", "OpenAI": "openai", " groq ": "groq", "demo": "demo"}
    names |= {name: name for name in ("openai", "google", "vertex", "ollama", "groq", "moonshot", "xai", "anthropic")}
    assert {name: load({"PREFERRED_PROVIDER": name}).preferred_provider for name in names} == names


@in_one_test
@pytest.mark.parametrize("variable", list_variables(PROVIDERS))
@pytest.mark.parametrize(
    "value",
    [
        KEY,
        f"{KEY} x",
        "https://user:hunter2hunter2@host/",
        "http://host/?key=hunter2hunter2",
        "gsk_0123456789abcdef\x00",
    ],
)
def test_no_error_and_no_warning_shows_a_secret(variable, value):
    try:
        text = " ".join(load({variable: value}).warnings)
    except ConfigurationError as error:
        text = error.message
    assert not re.search("0123456789|hunter2hunter2", text)


@pytest.mark.parametrize("other", ["PROXY_API_KEY", "ADMIN_API_KEY"])
def test_a_monitor_key_is_a_key_of_its_own(other):
    assert refusal(**{other: "first-0123456789,shared-0123456789", "MONITOR_API_KEY": "shared-0123456789"}) == (
        f"MONITOR_API_KEY has a key of {other}. It only reads /metrics and /api/: choose another key."
    )
    settings = load({other: "first-0123456789", "MONITOR_API_KEY": "one-0123456789, two-0123456789"})
    assert [key.reveal() for key in settings.monitor_api_keys] == ["one-0123456789", "two-0123456789"]
    assert {"one-0123456789", "two-0123456789"} <= {*settings.reveal_all_secrets()}


def test_an_administrator_key_is_no_key_of_clients():
    shared = {"PROXY_API_KEY": "first-0123456789,shared-0123456789", "ADMIN_API_KEY": "shared-0123456789"}
    assert refusal(**shared, VIRTUAL_KEYS="true") == (
        "ADMIN_API_KEY has a key of PROXY_API_KEY. It is for the administration only: choose another key."
    )
    assert load(shared).admin_api_keys, "without virtual keys there is no administration"
    unread = dict.fromkeys(("PROXY_API_KEY", "ADMIN_API_KEY", "MONITOR_API_KEY"), UNRESOLVED_KEY)
    assert load({**unread, "VIRTUAL_KEYS": "true"}).virtual_keys, "a command does not know the keys of a running proxy"


def test_settings_do_not_print_secrets():
    urls = {"REDIS_URL": f"rediss://user:{KEY}@redis.example.org:6380/1"}
    client = {"OIDC_ISSUER": "https://login.example.org/", "OIDC_CLIENT_ID": "proxy", "OIDC_CLIENT_SECRET": KEY}
    settings = load({"OPENAI_API_KEY": KEY, **urls, **client})
    assert KEY not in repr(settings)
    assert KEY in settings.reveal_all_secrets()


def test_a_secret_never_prints_whole():
    secret = Secret(KEY)
    for shown in (str(secret), repr(secret), f"{secret}", f"{secret:>20}", f"{secret!r}", repr([secret])):
        assert "…4f2a" in shown
        assert "sk-" not in shown
        assert "0123" not in shown
    assert secret.reveal() == KEY
    assert str(Secret("gsk_0123456789abcdef")) == "…cdef"
    assert str(Secret("fifteen-letters")) == "…"
    assert str(Secret("AIza0123456789abcdef")) == "…cdef"
    assert str(Secret("short")) == "…"
    with pytest.raises(TypeError):
        pickle.dumps(secret)


@given(st.text(min_size=1, max_size=80))
def test_a_secret_shows_only_its_vendor_and_four_characters(value):
    shown = str(Secret(value)).partition("…")
    assert len(shown[0]) <= 4
    assert len(shown[2]) <= 4


def example_lines():
    return (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()


def test_the_example_has_every_variable_once_and_no_other():
    in_example = re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=", "\n".join(example_lines()), re.MULTILINE)
    assert sorted(in_example) == sorted(list_variables(PROVIDERS))


def test_the_example_copied_as_it_is_sets_nothing(tmp_path):
    settings = load({}, "\n".join(example_lines()), tmp_path)
    places = {"env_file": settings.env_file, "files": settings.files, "placeholders": settings.placeholders}
    assert settings == Settings(warnings=settings.warnings, **places)
    assert len(settings.warnings) == 1


def test_every_line_of_the_example_holds_a_value_that_is_allowed(tmp_path):
    lines = [re.sub(r"^# (?=[A-Z][A-Z0-9_]+=)", "", line) for line in example_lines()]
    # the line of VIRTUAL_KEYS shows its default, and the sign-in of persons needs it
    settings = load({"VIRTUAL_KEYS": "true"}, "\n".join(lines), tmp_path)
    assert settings.preferred_provider == "openai"
    assert settings.max_upstream_calls == 100


def test_variables_of_the_environment_are_never_overwritten(tmp_path, monkeypatch):
    settings = load({}, "MISTRAL_API_KEY=m-key\nCOHERE_API_KEY=c-key", tmp_path)
    monkeypatch.setattr(os, "environ", {"COHERE_API_KEY": "of the environment", "LITELLM_MODE": "DEV"})
    settings.export_to_litellm()
    assert os.environ["MISTRAL_API_KEY"] == "m-key"
    assert os.environ["COHERE_API_KEY"] == "of the environment"
    assert os.environ["LITELLM_MODE"] == "DEV"
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"


@pytest.mark.parametrize(
    ("value", "secret"), [("/home/me/account.json", False), ('{"private_key": "p", "type": "service_account"}', True)]
)
def test_a_path_of_credentials_is_shown_and_pasted_credentials_are_not(value, secret):
    settings = load({"GOOGLE_APPLICATION_CREDENTIALS": value, "OTHER_CREDENTIALS": "s3cr3t-other"})
    assert settings.reveal_all_secrets() == ([value, "s3cr3t-other"] if secret else ["s3cr3t-other"])


def test_a_provider_without_models_of_its_own_may_be_given_any() -> None:
    for variable in ("BIG_MODEL", "MIDDLE_MODEL", "SMALL_MODEL", "MODEL_OPUS"):
        assert load({"PREFERRED_PROVIDER": "litellm", variable: "mistral/x"}).preferred_provider == "litellm"
    for row in PROVIDERS:
        if row.offered_to_users or row.name == "demo":
            assert load({"PREFERRED_PROVIDER": row.name}).preferred_provider == row.name


def test_a_folder_in_place_of_the_file_is_a_warning(tmp_path):
    (warning,) = load_settings({}, PROVIDERS, env_file=str(tmp_path)).warnings
    assert warning == f"{tmp_path} is a folder, so nothing was read from it."
