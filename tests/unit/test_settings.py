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
from anthropic_proxy.secrets import Secret
from tests.support.paths import ROOT

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


def test_the_file_may_have_comments_quotes_export_blank_lines_a_mark_and_crlf(tmp_path):
    text = (
        "\ufeff# first\r\n\r\n\r\nexport OPENAI_API_KEY='sk-one'  # mine\r\n"
        'BIG_MODEL="gpt-4o" # big\r\nSMALL_MODEL = gpt-4o-mini # small\r\nMIDDLE_MODEL\r\nPORT=9000'
    )
    settings = load({}, text, tmp_path)
    assert keys_of(settings) == ["sk-one"]
    assert (settings.big_model, settings.small_model, settings.port) == ("gpt-4o", "gpt-4o-mini", 9000)
    assert settings.middle_model is None
    assert settings.warnings == ()


def test_where_a_value_stands_is_known_to_the_line(tmp_path):
    settings = load({"PORT": "9000"}, "\n\n# big\nBIG_MODEL=gpt-4o\n\nOPENAI_API_KEY=sk-one\n", tmp_path)
    file = str(tmp_path / ".env")
    assert settings.origins == {
        "BIG_MODEL": f"{file} line 4",
        "OPENAI_API_KEY": f"{file} line 6",
        "PORT": "environment",
    }
    assert settings.keys["openai"][0].origin == f"OPENAI_API_KEY in {file}, line 6"


def test_values_of_the_file_may_use_other_variables(tmp_path):
    settings = load(
        {"KEY": "sk-two"}, "BASE=gpt\nBIG_MODEL=${BASE}-4o\nOPENAI_API_KEY=${KEY}\nPORT=${P:-9001}", tmp_path
    )
    assert (settings.big_model, keys_of(settings), settings.port) == ("gpt-4o", ["sk-two"], 9001)


def test_the_environment_wins_over_the_file(tmp_path):
    assert load({"BIG_MODEL": "gpt-4o"}, "BIG_MODEL=gpt-4.1", tmp_path).big_model == "gpt-4o"


@pytest.mark.parametrize("empty", ["", "  ", "your-model", '""', "# nothing"])
def test_an_empty_or_placeholder_value_of_the_environment_leaves_the_file_in_effect(tmp_path, empty):
    assert load({"BIG_MODEL": empty}, "BIG_MODEL=gpt-4.1", tmp_path).big_model == "gpt-4.1"


def test_an_alias_in_the_environment_wins_over_the_main_name_in_the_file(tmp_path):
    assert load({"VERTEX_PROJECT_ID": "there"}, "VERTEX_PROJECT=here", tmp_path).vertex_project == "there"
    assert load({"VERTEX_PROJECT_ID": "there", "VERTEX_PROJECT": "here"}).vertex_project == "here"


@pytest.mark.parametrize(
    "key",
    ["sk-test", "test-key", "dummy", "EMPTY", "ollama", "none", "sk-fake", "not-needed", KEY, "secret", "mine"],
)
def test_a_key_that_a_local_server_may_want_is_a_key(key):
    settings = load({"OPENAI_API_KEY": key})
    assert keys_of(settings) == [key]
    assert settings.warnings == ()


@given(st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=20, max_size=60))
def test_a_random_key_is_no_placeholder(text):
    assert keys_of(load({"OPENAI_API_KEY": f"sk-{text}"})) == [f"sk-{text}"]


@pytest.mark.parametrize("literal", ["#secret", "pass#word", "it's", '"half'])
def test_a_value_with_characters_of_comments_or_quotes_stays(literal):
    settings = load({"PROXY_API_KEY": literal})
    assert [key.reveal() for key in settings.proxy_api_keys] == [literal]
    assert settings.warnings == ()


def test_several_keys_come_in_order_each_once_without_placeholders():
    settings = load({"GROQ_API_KEY": "gsk_b, gsk_a,gsk_b,,your-key", "PROXY_API_KEY": "one,two"})
    assert keys_of(settings, "groq") == ["gsk_b", "gsk_a"]
    assert [key.reveal() for key in settings.proxy_api_keys] == ["one", "two"]
    assert "1 of GROQ_API_KEY" in settings.warnings[0]


def test_preferred_provider_accepts_every_name_and_alias_in_any_case():
    names = {"gemini": "google", "vertex_ai": "vertex", "OpenAI": "openai", " groq ": "groq", "demo": "demo"}
    names |= {name: name for name in ("openai", "google", "vertex", "ollama", "groq", "moonshot", "xai", "anthropic")}
    assert {name: load({"PREFERRED_PROVIDER": name}).preferred_provider for name in names} == names


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


def test_timeouts_of_the_upstream():
    assert load({"UPSTREAM_TIMEOUT": "40"}).timeouts == Timeouts(
        connect_seconds=10, first_byte_seconds=40, idle_seconds=40
    )
    both = load({"UPSTREAM_TIMEOUT": "40", "UPSTREAM_IDLE_TIMEOUT": "2.5", "UPSTREAM_CONNECT_TIMEOUT": "1"})
    assert both.timeouts == Timeouts(connect_seconds=1, first_byte_seconds=40, idle_seconds=2.5)


def test_addresses_lose_their_last_slash_and_go_by_provider():
    settings = load(
        {
            "OPENAI_BASE_URL": "http://localhost:8000/v1/",
            "GEMINI_BASE_URL": "https://gemini.example.org",
            "OLLAMA_API_BASE": "http://box:11434/",
            "ANTHROPIC_UPSTREAM_URL": "https://mirror.example.org",
        }
    )
    assert settings.base_urls == {
        "openai": "http://localhost:8000/v1",
        "google": "https://gemini.example.org",
        "ollama": "http://box:11434",
        "anthropic": "https://mirror.example.org",
    }


def test_the_address_that_clients_use_is_no_upstream_address():
    assert load({"ANTHROPIC_BASE_URL": "http://localhost:8082"}).base_urls == {}


def test_lists_by_comma_and_tiers():
    settings = load(
        {
            "FALLBACK_SONNET": "groq/llama-3.3-70b-versatile, xai/grok-3",
            "MODEL_OPUS": "openai/o3",
            "OPENAI_KNOWN_MODELS": "mine,other",
            "ALLOWED_HOSTS": "Proxy.Example.org:8082, box",
            "OPENAI_WIRE": "chat",
            "GROQ_WIRE": "auto",
        }
    )
    assert settings.fallbacks == {"sonnet": ("groq/llama-3.3-70b-versatile", "xai/grok-3")}
    assert settings.tier_models == {"opus": "openai/o3"}
    assert settings.extra_models == {"openai": ("mine", "other")}
    assert settings.allowed_hosts == ("proxy.example.org", "box")
    assert settings.wires == {"openai": "chat"}


def test_the_levels_of_other_proxies_logs_are_understood():
    assert [load({"LOG_LEVEL": level}).log_level for level in ("CRITICAL", "WARN", "Info")] == [
        "error",
        "warning",
        "info",
    ]


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
    assert KEY not in repr(load({"OPENAI_API_KEY": KEY}))
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
    assert settings == Settings(warnings=settings.warnings, env_file=settings.env_file, files=settings.files)
    assert len(settings.warnings) == 1


def test_every_line_of_the_example_holds_a_value_that_is_allowed(tmp_path):
    lines = [re.sub(r"^# (?=[A-Z][A-Z0-9_]+=)", "", line) for line in example_lines()]
    settings = load({}, "\n".join(lines), tmp_path)
    assert settings.preferred_provider == "openai"
    assert settings.max_upstream_calls == 100


def test_other_variables_of_the_file_are_kept_for_libraries_that_read_the_environment(tmp_path):
    text = "\n".join(
        [
            *("MISTRAL_API_KEY=m-key", "AWS_REGION_NAME=eu-central-1", "COHERE_API_KEY=your-cohere-key"),
            *("DEEPSEEK_API_KEY=from-the-file", "OPENAI_API_KEY=first,second"),
            *("OPENAI_BASE_URL=http://127.0.0.1:9/v1", "PROXY_API_KEY=secret-of-ours"),
            *("BIG_MODEL=mistral/mistral-large-latest", "HTTPS_PROXY=http://127.0.0.1:3128"),
        ]
    )
    settings = load({"DEEPSEEK_API_KEY": "from-the-environment"}, text, tmp_path)
    assert {name: secret.reveal() for name, secret in settings.litellm_variables.items()} == {
        "MISTRAL_API_KEY": "m-key",
        "AWS_REGION_NAME": "eu-central-1",
        "OPENAI_API_KEY": "first",
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    }
    assert "m-key" not in repr(settings)


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


def test_redis_is_found_by_its_address():
    settings = load({"REDIS_URL": "rediss://user:hunter22@redis.example.org:6380/1", "REDIS_FAILURE": "closed"})
    assert settings.redis_url.reveal() == "rediss://user:hunter22@redis.example.org:6380/1"
    assert (settings.redis_failure, settings.redis_prefix) == ("closed", "anthropic-proxy")
    assert "hunter22" not in repr(settings)


@pytest.mark.parametrize(
    "value",
    [
        "postgresql://db/x?sslrootcert=/etc/ssl/ca.pem&sslcert=&application_name=ca.pem",
        "postgresql://db/x?sslmode=verify-full&sslrootcert=system",
    ],
)
def test_absolute_files_in_an_address_are_kept(value):
    assert load({"DATABASE_URL": value}).database_url.reveal() == value


def test_a_provider_without_models_of_its_own_may_be_given_any() -> None:
    for variable in ("BIG_MODEL", "MIDDLE_MODEL", "SMALL_MODEL", "MODEL_OPUS"):
        assert load({"PREFERRED_PROVIDER": "litellm", variable: "mistral/x"}).preferred_provider == "litellm"
    for row in PROVIDERS:
        if row.offered_to_users or row.name == "demo":
            assert load({"PREFERRED_PROVIDER": row.name}).preferred_provider == row.name


def test_an_identity_provider_has_a_client_scopes_and_groups(tmp_path):
    client = {"OIDC_ISSUER": "https://login.example.org/realms/a/", "OIDC_CLIENT_ID": "proxy"}
    lists = {"OIDC_SCOPES": "email groups", "OIDC_DOMAINS": "@Example.org", "OIDC_ADMINS": "platform, ann@example.org"}
    oidc = load({**client, **lists}, "", tmp_path).oidc
    assert (oidc.issuer, oidc.client_secret) == ("https://login.example.org/realms/a", None)
    assert (oidc.scopes, oidc.domains) == (("openid", "email", "groups"), ("example.org",))
    assert oidc.admins == ("platform", "ann@example.org")
    settings = load({**client, "OIDC_CLIENT_SECRET": "s3cret-of, the client"}, "", tmp_path)
    assert "s3cret-of, the client" in settings.reveal_all_secrets()
    assert "s3cret" not in repr(settings)


PLACEHOLDERS = (
    *("your-api-key", "your_openai_key", "YOUR_API_KEY_HERE", "sk-your-key-here", "your-openai-key", "sk-..."),
    *("sk-ant-...", "sk-…", "AIza...", "<your key>", "<key>", "[your key]", "{{key}}", "${OPENAI_API_KEY}"),
    *("$OPENAI_API_KEY", "sk-xxxxxxxx", "xxx", "gsk_XXXXXXXX", "****", "sk-", "sk-ant-", "changeme", "change-me"),
    *("CHANGE_ME_NOW", "replace-me", "REPLACE_WITH_KEY", "insert-key", "put-key-here", "example-key"),
    *("sk-example", "placeholder", "unset", "TODO"),
)
QUOTED = ('"sk-one"', "'sk-one'", '"sk-one" # mine', '"sk-one"  # my "own"', "sk-one # mine", "sk-one #mine")


def test_placeholders_and_quotes_of_container_tools():
    for placeholder in PLACEHOLDERS:
        settings = load({"OPENAI_API_KEY": placeholder})
        assert (settings.keys, settings.warnings) == (
            {},
            ("Still a placeholder, so not set: OPENAI_API_KEY (in the environment).",),
        ), placeholder
    assert [keys_of(load({"OPENAI_API_KEY": literal})) for literal in QUOTED] == [["sk-one"]] * len(QUOTED)


def test_a_folder_in_place_of_the_file_is_a_warning(tmp_path):
    (warning,) = load_settings({}, PROVIDERS, env_file=str(tmp_path)).warnings
    assert warning == f"{tmp_path} is a folder, so nothing was read from it."
