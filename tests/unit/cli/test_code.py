"""Commands `code` and `run`: the environment and the settings that a client gets, and its exit status."""

import json
from pathlib import Path

import pytest

from tests.support.command_line import OPENAI, install_program, read_call, run_command
from tests.support.server_process import running_proxy

SERVER_VARIABLES = {
    "ANTHROPIC_AUTH_TOKEN": "local",
    "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "1047576",
    "CLAUDE_CODE_AUTO_COMPACT_WINDOW": "1047576",
    "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "32768",
    "CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY": "1",
}
"""Variables for Claude Code with the default models of OpenAI, besides the address."""
CONFLICTS = {
    "ANTHROPIC_API_KEY": "sk-ant-other",
    "ANTHROPIC_AUTH_TOKEN": "other",
    "ANTHROPIC_BASE_URL": "http://127.0.0.1:9",
    "CLAUDE_CODE_USE_BEDROCK": "1",
    "CLAUDE_CODE_USE_VERTEX": "1",
    "CLAUDE_CODE_USE_FOUNDRY": "1",
}
"""Variables with which Claude Code would not use the proxy."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    install_program(tmp_path, "claude")
    return tmp_path


def test_claude_code_gets_the_address_a_credential_and_the_limits_of_the_model(directory: Path) -> None:
    ended = run_command("code", "--", "-p", "hello", directory=directory, settings={**OPENAI, **CONFLICTS})
    assert (ended.returncode, ended.stderr) == (0, "")
    arguments, environment = read_call(ended.stdout)
    address = environment["ANTHROPIC_BASE_URL"]
    assert address.startswith("http://127.0.0.1:")
    assert {name: environment.get(name) for name in SERVER_VARIABLES} == SERVER_VARIABLES
    assert not environment.keys() & (CONFLICTS.keys() - {"ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"})
    assert arguments[:1] == ["--settings"]
    disabled = dict.fromkeys(CONFLICTS.keys() - {"ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"}, "")
    assert json.loads(arguments[1]) == {"env": {**disabled, **SERVER_VARIABLES, "ANTHROPIC_BASE_URL": address}}
    assert arguments[2:] == ["-p", "hello"]


def test_the_model_of_the_arguments_decides_the_limits(directory: Path) -> None:
    ended = run_command("code", "--", "--model", "openai/gpt-5-mini", directory=directory)
    _, environment = read_call(ended.stdout)
    assert environment["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "272000"


def test_a_limit_that_the_user_has_set_stays(directory: Path) -> None:
    settings = {**OPENAI, "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "50000"}
    _, environment = read_call(run_command("code", directory=directory, settings=settings).stdout)
    assert environment["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "50000"


def test_the_exit_status_is_that_of_the_client(directory: Path) -> None:
    assert run_command("code", directory=directory, settings={**OPENAI, "EXIT_STATUS": "7"}).returncode == 7
    assert run_command("run", "sh", "-c", "kill -TERM $$", directory=directory).returncode == 128 + 15


def test_a_running_proxy_is_used_and_stays(directory: Path) -> None:
    with running_proxy(directory, {**OPENAI, "PROXY_API_KEY": "pk-one,pk-two"}) as proxy:
        settings = {"PORT": proxy.url.rpartition(":")[2], "PROXY_API_KEY": "pk-one,pk-two"}
        ended = run_command("run", "claude", "x", directory=directory, settings=settings)
        arguments, environment = read_call(ended.stdout)
        assert (arguments, environment["ANTHROPIC_BASE_URL"]) == (["x"], proxy.url)
        assert environment["ANTHROPIC_AUTH_TOKEN"] == "pk-one"
        assert proxy.client().get("/health").status_code == 200


def test_without_a_key_for_anthropic_the_client_keeps_its_credential(directory: Path) -> None:
    settings = {"PREFERRED_PROVIDER": "anthropic", "CLAUDE_CODE_OAUTH_TOKEN": "oauth"}
    arguments, environment = read_call(run_command("code", directory=directory, settings=settings).stdout)
    assert "ANTHROPIC_AUTH_TOKEN" not in environment
    assert environment["CLAUDE_CODE_OAUTH_TOKEN"] == "oauth"
    assert not json.loads(arguments[1])["env"].keys() & {"ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY"}


@pytest.mark.parametrize("file", [".claude/settings.json", "project/.claude/settings.json"])
@pytest.mark.parametrize("variable", CONFLICTS)
def test_a_settings_file_that_would_win_is_overridden_and_named(directory: Path, file: str, variable: str) -> None:
    project = directory / "project"
    (directory / file).parent.mkdir(parents=True)
    project.mkdir(exist_ok=True)
    (directory / file).write_text(json.dumps({"env": {variable: CONFLICTS[variable]}}))
    own = {**OPENAI, "HOME": str(directory), "PATH": f"{directory}:/usr/bin:/bin"}
    ended = run_command("code", directory=project, settings=own)
    arguments, environment = read_call(ended.stdout)
    address = environment["ANTHROPIC_BASE_URL"]
    assert ended.stderr == f"~/{file} sets {variable}. This session uses {address} instead.\n"
    assert json.loads(arguments[1])["env"][variable] != CONFLICTS[variable]


def test_settings_among_the_arguments_forbid_an_overriding_file(directory: Path) -> None:
    (directory / ".claude").mkdir()
    (directory / ".claude/settings.local.json").write_text('{"env": {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}}')
    ended = run_command("code", "--", "--settings", "{}", directory=directory)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "✕ Claude Code would not use this proxy: ~/.claude/settings.local.json sets ANTHROPIC_BASE_URL, which "
        "overrides the value of this command. Remove that line, or omit the option --settings.\n"
    )


def test_a_missing_program_has_its_remedy(tmp_path: Path) -> None:
    ended = run_command("code", directory=tmp_path, settings={"PATH": "/nonexistent"})
    assert (ended.returncode, ended.stderr) == (
        2,
        '✕ There is no program "claude" in PATH. Install Claude Code:  npm install -g @anthropic-ai/claude-code\n',
    )
    ended = run_command("run", directory=tmp_path)
    message = "✕ The program is missing. Example:  anthropic-proxy run -- python agent.py\n"
    assert (ended.returncode, ended.stderr) == (2, message)


def test_a_proxy_that_cannot_start_reports_the_reason(directory: Path) -> None:
    ended = run_command("code", directory=directory, settings={**OPENAI, "PREFERRED_PROVIDER": "opnai"})
    assert ended.returncode == 2
    assert ended.stderr.startswith('✕ PREFERRED_PROVIDER is "opnai". Use openai, ')
