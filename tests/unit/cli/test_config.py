"""Commands `config show` and `config check`: values with their sources, and findings."""

import json
import sys
from pathlib import Path

import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import list_variables
from anthropic_proxy.gateway.settings.values import redact_and_shorten
from tests.support.command_line import OPENAI, run_command
from tests.support.provider_lists import OFFERED_PREFIXES, join_with_or
from tests.support.server_process import free_port

ENV_FILE = """# a comment
OPENAI_API_KEY=sk-test-0123456789abcdef,sk-test-0123456789ghijkl
BIG_MODEL=gpt-5.5
GROQ_API_KEY=your-groq-key
OPENAI_BSE_URL=http://localhost:9/v1
XAI_BASE_URL=http://localhost:9/v1
"""


def test_set_values_have_their_source_and_default_and_keys_are_masked(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(ENV_FILE)
    settings = {"BIG_MODEL": "o3", "PROXY_API_KEY": "short", "HTTPS_PROXY": "http://user:secret@proxy.test:3128"}
    ended = run_command("config", "show", directory=tmp_path, settings=settings)
    assert (ended.returncode, [line.split("\t") for line in ended.stdout.splitlines()]) == (
        0,
        [
            ["Setting", "Value", "Source", "Default"],
            ["BIG_MODEL", "o3", "environment", "openai/gpt-4.1"],
            ["PROXY_API_KEY", "…", "environment", "–"],
            ["OPENAI_API_KEY", "…cdef, …ijkl", ".env line 2", "–"],
            ["XAI_BASE_URL", "http://localhost:9/v1", ".env line 6", "https://api.x.ai/v1"],
            ["HTTPS_PROXY", "http://proxy.test:3128", "environment", "–"],
        ],
    )
    unset = len(list_variables(PROVIDERS)) - 4
    assert ended.stderr == (
        f"  {unset} settings are not set. Show them with:  anthropic-proxy config show --all\n"
        f"  Settings files: {tmp_path}/.env\n"
    )


def test_all_settings_are_listed_with_defaults(tmp_path: Path) -> None:
    ended = run_command("config", "show", "--all", "--json", directory=tmp_path)
    rows = {row["name"]: row for row in json.loads(ended.stdout)["settings"]}
    assert list(rows) == list(list_variables(PROVIDERS))
    expected = {"PORT": "8082", "FETCH_URLS": "false", "STOP_TIMEOUT": "25", "OPENAI_WIRE": "auto"}
    expected |= {"SMALL_MODEL": "openai/gpt-4.1-mini", "PREFERRED_PROVIDER": "openai"}
    assert {name: rows[name]["value"] for name in expected} == expected
    assert {name: rows[name]["source"] for name in expected} == dict.fromkeys(expected, "default")
    assert rows["OPENAI_API_KEY"]["value"] == "…cdef"
    assert OPENAI["OPENAI_API_KEY"] not in ended.stdout


def test_check_lists_findings_with_status_1(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(ENV_FILE)
    ended = run_command("config", "check", directory=tmp_path, settings={"SMALL_MODEL": "groq/openai/gpt-oss-20b"})
    problem = (
        "groq has no key: GROQ_API_KEY is not set. Set it in .env or in the environment and start the proxy again."
    )
    warnings = [
        "Still a placeholder, so not set: GROQ_API_KEY (in .env).",
        ".env line 5: OPENAI_BSE_URL is not a setting. Did you mean OPENAI_BASE_URL",
        "XAI_BASE_URL is set, but no request is sent there. Add PREFERRED_PROVIDER=xai",
    ]
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines() == [f"  ✕ {problem}", *(f"  ! {warning}" for warning in warnings)]
    settings = {"SMALL_MODEL": "groq/openai/gpt-oss-20b"}
    ended = run_command("config", "check", "--json", directory=tmp_path, settings=settings)
    expected = {"status": "findings", "problems": [problem], "warnings": warnings}
    assert (ended.returncode, json.loads(ended.stdout), ended.stderr) == (1, expected, "")


def test_check_of_valid_settings_has_status_0(tmp_path: Path) -> None:
    settings = {**OPENAI, "BIG_MODEL": "gpt-5.5", "SMALL_MODEL": "gpt-5.4-mini"}
    ended = run_command("config", "check", directory=tmp_path, settings=settings)
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        0,
        "  ✓ The settings are valid. No provider was called.\n",
        "",
    )


def test_check_of_an_invalid_setting_has_status_2(tmp_path: Path) -> None:
    settings = {**OPENAI, "PORT": "99999"}
    message = 'PORT is "99999". Use a whole number from 1 to 65535. Set in the environment.'
    ended = run_command("config", "check", directory=tmp_path, settings=settings)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"✕ {message}\n")
    ended = run_command("config", "check", "--json", directory=tmp_path, settings=settings)
    expected = {"status": "invalid", "problems": [message], "warnings": []}
    assert (ended.returncode, json.loads(ended.stdout), ended.stderr) == (2, expected, "")


def test_tables_of_the_configuration_file_are_listed_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text(
        '[providers.vllm]\nbase_url = "http://localhost:9/v1"\napi_key = { env = "VLLM_KEY" }\n'
        'models = ["qwen", "glm"]\n[search]\nservice = "brave"\napi_key = { env = "VLLM_KEY" }\n'
        '[providers.team]\nbase_url = "http://localhost:9"\nwire = "messages"\napi_key = { env = "TEAM_KEY" }\n'
        '[providers.team.models."qwen3-*"]\nmax_output = 1000\nefforts = ["low", "high"]\naccepts_images = false\n'
        "[providers.vllm.dialect]\nsends_strict = false\n"
    )
    settings = {**OPENAI, "VLLM_KEY": "vllm-0123456789abcdef,vllm-0123456789ghijkl"}
    ended = run_command("config", "show", directory=tmp_path, settings=settings)
    assert ended.stdout.splitlines()[2:] == [
        "base_url of [providers.vllm]\thttp://localhost:9/v1\tanthropic-proxy.toml line 2\t–",
        "api_key of [providers.vllm]\t…cdef, …ijkl\tanthropic-proxy.toml line 3\t–",
        "models of [providers.vllm]\tqwen, glm\tanthropic-proxy.toml line 4\t–",
        "dialect.sends_strict of [providers.vllm]\tfalse\tanthropic-proxy.toml line 17\t–",
        "base_url of [providers.team]\thttp://localhost:9\tanthropic-proxy.toml line 9\t–",
        "api_key of [providers.team]\t–\tanthropic-proxy.toml line 11\t–",
        "wire of [providers.team]\tmessages\tanthropic-proxy.toml line 10\tchat",
        'models."qwen3-*".max_output of [providers.team]\t1000\tanthropic-proxy.toml line 13\t–',
        'models."qwen3-*".efforts of [providers.team]\tlow, high\tanthropic-proxy.toml line 14\t–',
        'models."qwen3-*".accepts_images of [providers.team]\tfalse\tanthropic-proxy.toml line 15\t–',
        "VLLM_KEY\t…cdef, …ijkl\tenvironment\t–",
        "TEAM_KEY\t–\tnot set\t–",
        "service of [search]\tbrave\tanthropic-proxy.toml line 6\t–",
        "api_key of [search]\t…cdef\tanthropic-proxy.toml line 7\t–",
    ]


def test_check_shows_the_error_text_of_a_key_command(tmp_path: Path) -> None:
    command = json.dumps([sys.executable, "-c", "import sys; sys.exit('\x1b[31mlocked')"])
    (tmp_path / "anthropic-proxy.toml").write_text(
        f'[providers.a]\nbase_url = "http://localhost:9/v1"\nmodels = ["x"]\napi_key = {{ command = {command} }}\n'
    )
    ended = run_command("config", "check", directory=tmp_path, settings={"PREFERRED_PROVIDER": "a"})
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        0,
        "  ✓ The settings are valid. No provider was called.\n",
        "  Keys in files and from commands were not read. Check them too:  anthropic-proxy config check --keys\n",
    )
    ended = run_command("config", "check", "--keys", directory=tmp_path, settings={"PREFERRED_PROVIDER": "a"})
    assert (ended.returncode, ended.stdout, ended.stderr.split()) == (
        1,
        "",
        f"✕ a has no key: the command {redact_and_shorten(sys.executable)} (providers.a.api_key in "
        r"anthropic-proxy.toml, line 4) ended with status 1: \x1b[31mlocked.".split(),
    )


MANY_ERRORS_FILE = """[providers.One]
base_url = "http://localhost:9/v1"

[providers.two]
base_url = "localhost:9"
wire = "respones"
api_key = "sk-proj-0123456789abcdef4f2a"
dialect = { sends_strict = "no" }
quirks = 1

[providers.three]
base_ulr = "http://localhost:9/v1"
[providers.three.models."qwen3-*"]
context_window = 1000
max_input = 2000
max_output = 200000
efforts = ["low", "high"]
default_effort = "medium"

[providers.four]
base_url = "http://localhost:9/v1"
wire = "chats"
models = ["a b"]
[providers.four.dialect]
think_form = "level"
effort_form = "omitt"

[search]
service = "brave"
[limits]
"""


MANY_ERRORS = """\
"One" cannot be the name of a provider: it is the prefix of model names. Use lower-case letters, digits, hyphens\
 and underscores. It is in anthropic-proxy.toml, line 1. Did you mean [providers.one]
providers.two.api_key is a text, but this file must not contain keys. It is in anthropic-proxy.toml, line 7. Put\
 the key into .env as TWO_API_KEY=… and write  api_key = { env = "TWO_API_KEY" }
providers.two.quirks is not a setting. It is in anthropic-proxy.toml, line 9. Allowed here: api_key, base_url, \
body, ca_file, client_certificate, dialect, headers, key_header, models, proxy, requests_per_minute, wire.
providers.three.base_ulr is not a setting. It is in anthropic-proxy.toml, line 12. Did you mean base_url
providers.three.models."qwen3-*".max_input is 2000, but context_window is 1000. Use at most the context window, \
which holds input and output together. Set in anthropic-proxy.toml, line 15.
providers.three.models."qwen3-*".max_output is 200000, but context_window is 1000. Use at most the context \
window, which holds input and output together. Set in anthropic-proxy.toml, line 16.
providers.three.models."qwen3-*".default_effort is "medium". Use low or high, as in efforts. Set in \
anthropic-proxy.toml, line 18.
limits is not a setting. It is in anthropic-proxy.toml, line 30. Allowed here: prices, providers, routes, search.
providers.two.base_url is "localhost:9". Use an address that begins with http:// or https://, without password \
and query. Set in anthropic-proxy.toml, line 5. Did you mean base_url = "http://localhost:9"
providers.four.models is "a b". Use the name of a model, with or without the prefix of a provider, such as \
openai/gpt-4.1. Set in anthropic-proxy.toml, line 23.
providers.two.wire is "respones". Use chat, responses, messages, gemini or ollama. Set in anthropic-proxy.toml, \
line 6. Did you mean wire = "responses"
providers.four.wire is "chats". Use chat, responses, messages, gemini or ollama. Set in anthropic-proxy.toml, \
line 22. Did you mean wire = "chat"
UPSTREAM_TIMEOUT is "-1". Use a number of seconds above 0, such as 300. Set in the environment.
PORT is "abc". Use a whole number from 1 to 65535. Set in .env, line 1.
FETCH_URLS is "maybe". Use true or false. Set in the environment.
LOG_FORMAT is "jsn". Use auto, plain or json. Set in .env, line 2. Did you mean LOG_FORMAT=json
OPENAI_API_KEY contains a character that is invalid in a key: a space, a line break or a letter outside ASCII. \
Use one key, or several separated by commas. Set in .env, line 4.
search.api_key is missing: brave requires it. Set it in anthropic-proxy.toml, line 28.
""".splitlines()


def test_check_lists_all_errors_of_both_files_and_the_environment(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=abc\nLOG_FORMAT=jsn\nPREFERRED_PROVIDER=two\nOPENAI_API_KEY=two words\n")
    (tmp_path / "anthropic-proxy.toml").write_text(MANY_ERRORS_FILE)
    settings = {"FETCH_URLS": "maybe", "UPSTREAM_TIMEOUT": "-1"}
    ended = run_command("config", "check", directory=tmp_path, settings=settings)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == [f"✕ {message}" for message in MANY_ERRORS]
    listed = json.loads(run_command("config", "check", "--json", directory=tmp_path, settings=settings).stdout)
    assert listed == {"status": "invalid", "problems": MANY_ERRORS, "warnings": []}
    served = run_command("serve", directory=tmp_path, settings=settings)
    assert (served.returncode, served.stderr) == (2, ended.stderr)


def test_errors_of_an_unreadable_file_and_of_the_other_file_are_listed(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"PORT=1\xff")
    (tmp_path / "anthropic-proxy.toml").write_text("[providers\n")
    ended = run_command("config", "check", directory=tmp_path, settings={"LOG_LEVEL": "loud"})
    assert (ended.returncode, ended.stderr.splitlines()) == (
        2,
        [
            "✕ .env is not UTF-8 text: byte 6 is invalid. Save it as UTF-8.",
            "✕ anthropic-proxy.toml, line 1, column 11, is not valid TOML: Expected ']' at the end of a table "
            "declaration.",
            '✕ LOG_LEVEL is "loud". Use debug, info, warning or error. Set in the environment.',
        ],
    )


def test_check_refuses_an_address_of_the_network_without_a_key_as_serve_does(tmp_path: Path) -> None:
    message = (
        "0.0.0.0 can be reached from other machines, and no key is required. "
        "Set PROXY_API_KEY, or ALLOW_UNAUTHENTICATED=true if access is controlled elsewhere."
    )
    ended = run_command("config", "check", directory=tmp_path, settings={**OPENAI, "HOST": "0.0.0.0"})
    assert (ended.returncode, ended.stderr) == (2, f"✕ {message}\n")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "BIG_MODEL",
            "grok/grok-4",
            'BIG_MODEL is "grok/grok-4", but grok/ is the prefix of no provider, and openai has no such model. '
            f"Use {join_with_or(OFFERED_PREFIXES)} as the prefix. "
            "Set in the environment. Did you mean BIG_MODEL=xai/grok-4",
        ),
        (
            "FALLBACK_HAIKU",
            "opnai/gpt-5.4-mini",
            'FALLBACK_HAIKU contains "opnai/gpt-5.4-mini", but opnai/ is the prefix of no provider, and openai has no '
            f"such model. Use {join_with_or(OFFERED_PREFIXES)} as the prefix. "
            "Set in the environment. Did you mean openai/gpt-5.4-mini",
        ),
    ],
)
def test_check_rejects_an_unknown_prefix_of_a_model(variable: str, value: str, message: str, tmp_path: Path) -> None:
    settings = {**OPENAI, "BIG_MODEL": "gpt-5.5", "SMALL_MODEL": "gpt-5.4-mini", variable: value}
    ended = run_command("config", "check", directory=tmp_path, settings=settings)
    assert (ended.returncode, ended.stderr) == (1, f"  ✕ {message}\n")


def test_check_accepts_model_ids_with_a_slash_at_servers_that_have_them(tmp_path: Path) -> None:
    models = {"BIG_MODEL": "meta-llama/llama-5", "SMALL_MODEL": "qwen/qwen4-32b"}
    for settings in (
        {**OPENAI, "OPENAI_BASE_URL": "https://openrouter.test/api/v1"},
        {"GROQ_API_KEY": "gsk_0123456789abcdef"},
    ):
        ended = run_command("config", "check", directory=tmp_path, settings={**settings, **models})
        assert (ended.returncode, ended.stderr) == (0, "")


def test_check_names_models_that_need_a_prefix_and_the_missing_provider(tmp_path: Path) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text(
        '[providers.a]\nbase_url = "http://localhost:9/v1"\nmodels = ["claude-sonnet-4-6", "gpt-4.1", "own"]\n'
    )
    models = {"BIG_MODEL": "gpt-5.5", "SMALL_MODEL": "gpt-5.4-mini"}
    ended = run_command("config", "check", directory=tmp_path, settings={**OPENAI, **models})
    assert (ended.returncode, " ".join(ended.stderr.split())) == (
        1,
        "! [providers.a] lists claude-sonnet-4-6, gpt-4.1. Without a prefix, claude-sonnet-4-6 is sent to "
        "openai/gpt-5.5. For this server, request a/claude-sonnet-4-6",
    )
    (tmp_path / "anthropic-proxy.toml").unlink()
    nobody = {"OLLAMA_API_BASE": f"http://127.0.0.1:{free_port()}"}
    ended = run_command("config", "check", directory=tmp_path, settings=nobody)
    message = "No provider is configured, so the demo replies. It has no model. Next:  anthropic-proxy init"
    assert (ended.returncode, ended.stderr) == (1, f"  ! {message}\n")


def test_a_missing_key_of_the_search_service_is_named_without_a_reference_to_the_same_command(tmp_path: Path) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text('[search]\nservice = "exa"\napi_key = { env = "EXA_KEY" }\n')
    models = {"BIG_MODEL": "gpt-5.5", "SMALL_MODEL": "gpt-5.4-mini"}
    ended = run_command("config", "check", directory=tmp_path, settings={**OPENAI, **models})
    assert (ended.returncode, ended.stderr) == (
        1,
        "  ✕ Web searches fail: EXA_KEY is not set (search.api_key in anthropic-proxy.toml, line 3). "
        "Set it in .env or in the environment.\n",
    )
