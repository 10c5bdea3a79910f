"""Commands `code` and `run`: the environment and the settings that a client gets, and its exit status."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.cli.client_models import TierModel, explain_tool_search, find_tier_models, list_limit_variables
from tests.support.command_line import OPENAI, install_program, read_call, read_session, run_command
from tests.support.server_process import running_proxy

FACTS = {
    "openai/gpt-4.1": "1,047,576 tokens, $2.00 in and $8.00 out per million tokens",
    "openai/gpt-4.1-mini": "1,047,576 tokens, $0.40 in and $1.60 out per million tokens",
}
SERVER_VARIABLES = {
    "ANTHROPIC_AUTH_TOKEN": "local",
    "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "1047576",
    "CLAUDE_CODE_AUTO_COMPACT_WINDOW": "1047576",
    "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "32768",
    "CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY": "1",
    "ENABLE_TOOL_SEARCH": "auto:1",
    "ANTHROPIC_DEFAULT_OPUS_MODEL": "claude-opus-5-5",
    "ANTHROPIC_DEFAULT_OPUS_MODEL_NAME": "openai/gpt-4.1",
    "ANTHROPIC_DEFAULT_OPUS_MODEL_DESCRIPTION": f"replies to opus, {FACTS['openai/gpt-4.1']}",
    "ANTHROPIC_DEFAULT_SONNET_MODEL": "claude-sonnet-5-5",
    "ANTHROPIC_DEFAULT_SONNET_MODEL_NAME": "openai/gpt-4.1",
    "ANTHROPIC_DEFAULT_SONNET_MODEL_DESCRIPTION": f"replies to sonnet, {FACTS['openai/gpt-4.1']}",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL": "claude-haiku-5-5",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL_NAME": "openai/gpt-4.1-mini",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL_DESCRIPTION": f"replies to haiku, {FACTS['openai/gpt-4.1-mini']}",
    "ANTHROPIC_DEFAULT_FABLE_MODEL": "claude-fable-5-2",
    "ANTHROPIC_DEFAULT_FABLE_MODEL_NAME": "openai/gpt-4.1",
    "ANTHROPIC_DEFAULT_FABLE_MODEL_DESCRIPTION": f"replies to fable, {FACTS['openai/gpt-4.1']}",
}
"""Variables for Claude Code with the default models of OpenAI, besides the address."""
MODEL_NAMES = {
    "options": [
        {
            "model": SERVER_VARIABLES[f"ANTHROPIC_DEFAULT_{tier}_MODEL"],
            "label": SERVER_VARIABLES[f"ANTHROPIC_DEFAULT_{tier}_MODEL_NAME"],
            "description": SERVER_VARIABLES[f"ANTHROPIC_DEFAULT_{tier}_MODEL_DESCRIPTION"],
        }
        for tier in ("OPUS", "SONNET", "HAIKU", "FABLE")
    ]
}
CONFLICTS = {
    "ANTHROPIC_API_KEY": "sk-ant-other",
    "ANTHROPIC_AUTH_TOKEN": "other",
    "ANTHROPIC_BASE_URL": "http://127.0.0.1:9",
    "ANTHROPIC_UNIX_SOCKET": "/nonexistent.sock",
    "CLAUDE_CODE_USE_BEDROCK": "1",
    "CLAUDE_CODE_USE_MANTLE": "1",
    "CLAUDE_CODE_USE_VERTEX": "1",
    "CLAUDE_CODE_USE_FOUNDRY": "1",
    "CLAUDE_CODE_USE_GATEWAY": "1",
    "CLAUDE_CODE_USE_ANTHROPIC_AWS": "1",
    "CLAUDE_CODE_USE_ANTHROPIC_GOOGLE_CLOUD": "1",
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
    disabled = dict.fromkeys(CONFLICTS.keys() - {"ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"}, "")
    session = read_session(ended.stdout)
    status_line = session.pop("statusLine")
    assert shlex.split(status_line.pop("command"))[-1] == "statusline"
    assert status_line == {"type": "command", "refreshInterval": 10}
    assert session == {
        "env": {**disabled, **SERVER_VARIABLES, "ANTHROPIC_BASE_URL": address},
        "modelPicker": MODEL_NAMES,
    }
    assert arguments[2:] == ["-p", "hello"]
    assert not Path(arguments[1]).exists()


def test_the_model_of_the_arguments_decides_the_limits(directory: Path) -> None:
    ended = run_command("code", "--", "--model", "openai/gpt-5-mini", directory=directory)
    _, environment = read_call(ended.stdout)
    assert environment["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "272000"


def test_a_limit_that_the_user_has_set_stays(directory: Path) -> None:
    settings = {**OPENAI, "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "50000"}
    _, environment = read_call(run_command("code", directory=directory, settings=settings).stdout)
    assert environment["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "50000"


def test_names_and_tool_search_of_the_user_stay(directory: Path, port: str) -> None:
    own = {"ANTHROPIC_DEFAULT_OPUS_MODEL_NAME": "my opus", "ENABLE_TOOL_SEARCH": "false"}
    picker = {"options": [{"model": "sonnet"}]}
    line = {"type": "command", "command": "date"}
    write_settings(directory / ".claude/settings.json", {"env": own, "modelPicker": picker, "statusLine": line})
    session = read_session(run_in_project(directory, port, ANTHROPIC_DEFAULT_HAIKU_MODEL="openai/gpt-5-mini").stdout)
    tiers = ("ANTHROPIC_DEFAULT_OPUS", "ANTHROPIC_DEFAULT_HAIKU")
    expected = {name: value for name, value in SERVER_VARIABLES.items() if not name.startswith(tiers)}
    del expected["ENABLE_TOOL_SEARCH"]
    assert expected.items() <= session["env"].items()
    assert not [name for name in session["env"] if name.startswith(tiers) or name == "ENABLE_TOOL_SEARCH"]
    assert not session.keys() & {"modelPicker", "statusLine"}


def entry(name: str, target: str, window: int | None) -> dict[str, Any]:
    title = f"Title → {target}" if target else "Title"
    return {"id": name, "display_name": title, "max_input_tokens": window}


ALL_TIERS = ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-fable-5-2")


@pytest.mark.parametrize(
    ("listing", "variables"),
    [
        (None, {}),
        ({"data": 7}, {}),
        ({"data": [7, {"id": 1}, entry("gpt", "", 1), entry("claude", "", 1), entry("claude-other", "", 1)]}, {}),
        ({"data": [entry(name, "", 1_000_000) for name in ALL_TIERS]}, {"ENABLE_TOOL_SEARCH": "true"}),
        ({"data": [entry(name, "a/b", None) for name in ALL_TIERS]}, {"ENABLE_TOOL_SEARCH": "true"}),
        (
            {"data": [entry(name, "a/b", 131_072) for name in ALL_TIERS]},
            {"CLAUDE_CODE_DISABLE_1M_CONTEXT": "1", "ENABLE_TOOL_SEARCH": "auto:5"},
        ),
        (
            {"data": [entry(name, "a/b", 40_960) for name in ALL_TIERS]},
            {"CLAUDE_CODE_DISABLE_1M_CONTEXT": "1", "ENABLE_TOOL_SEARCH": "auto:2"},
        ),
        ({"data": [entry(name, "a/b", 400_000) for name in ALL_TIERS]}, {"ENABLE_TOOL_SEARCH": "auto:1"}),
        (
            {"data": [entry(ALL_TIERS[0], "", 1_000_000), *(entry(name, "a/b", 131_072) for name in ALL_TIERS[1:])]},
            {"ENABLE_TOOL_SEARCH": "true"},
        ),
    ],
)
def test_the_limits_follow_from_the_models_of_all_tiers(listing: Any, variables: dict[str, str]) -> None:
    assert list_limit_variables(find_tier_models(listing)) == variables


def test_explain_says_when_tool_search_pays() -> None:
    tools = [{"name": f"mcp__many__{number}", "description": "word " * 250} for number in range(60)]
    text = explain_tool_search(tools, 1_047_576)
    assert re.sub(r"about [\d,]+", "about N", text) == (
        "60 tools, about N tokens in each request; above 10,000 tokens tool search pays, if most of them are "
        "deferrable: start Claude Code by anthropic-proxy code, which sets ENABLE_TOOL_SEARCH. Below, it costs more: "
        "a tool that is loaded later makes most providers read the whole prompt anew"
    )
    assert re.sub(r"about [\d,]+", "about N", explain_tool_search([*tools, {"name": "ToolSearch"}], 1_047_576)) == (
        "61 tools, about N tokens in each request; tool search is on, so Claude Code sends further tools when the "
        "model needs them"
    )
    assert explain_tool_search(tools[:5], 1_047_576) == ""
    assert explain_tool_search([], 1_047_576) == ""
    assert "above 800 tokens" in explain_tool_search(tools[:5], 8_000)


def test_the_newest_model_of_a_tier_counts_and_no_control_character_is_passed_on() -> None:
    listing = {"data": [entry("claude-opus-5-5", "a/\x1b[2Jb", 10), entry("claude-opus-5", "a/c", 10)]}
    assert find_tier_models(listing) == [TierModel("opus", "claude-opus-5-5", "a/\\x1b[2Jb", 10)]


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
    output = run_command("code", directory=directory, settings=settings).stdout
    _, environment = read_call(output)
    assert "ANTHROPIC_AUTH_TOKEN" not in environment
    assert environment["CLAUDE_CODE_OAUTH_TOKEN"] == "oauth"
    assert not read_session(output)["env"].keys() & {"ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY"}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the port of a running proxy, which makes each command faster."""
    with running_proxy(tmp_path_factory.mktemp("proxy"), OPENAI) as proxy:
        yield proxy.url.rpartition(":")[2]


def run_in_project(directory: Path, port: str, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run `code` with the proxy on a port, in the folder `project` of a directory that is the home of the user."""
    (directory / "project").mkdir(exist_ok=True)
    own = {**OPENAI, "HOME": str(directory), "PATH": f"{directory}:/usr/bin:/bin", "PORT": port, **settings}
    return run_command("code", "--", *arguments, directory=directory / "project", settings=own)


def named_lines(source: str, names: Iterable[str], port: str) -> str:
    """Return the lines in which `code` names overridden settings."""
    return "".join(f"{source} sets {name}. This session uses http://127.0.0.1:{port} instead.\n" for name in names)


def write_settings(file: Path, content: dict[str, Any]) -> None:
    """Write a settings file of Claude Code."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("variable", CONFLICTS)
def test_a_settings_file_that_would_win_is_overridden_and_named(directory: Path, port: str, variable: str) -> None:
    write_settings(directory / ".claude/settings.json", {"env": {variable: CONFLICTS[variable]}})
    ended = run_in_project(directory, port)
    assert ended.stderr == named_lines("~/.claude/settings.json", [variable], port)
    assert read_session(ended.stdout)["env"][variable] != CONFLICTS[variable]


@pytest.mark.parametrize("file", ["project/.claude/settings.json", "project/.claude/settings.local.json"])
def test_the_settings_of_a_project_are_overridden_and_named(directory: Path, port: str, file: str) -> None:
    write_settings(directory / file, {"env": CONFLICTS})
    ended = run_in_project(directory, port)
    assert ended.stderr == named_lines(f"~/{file}", CONFLICTS, port)
    assert not read_session(ended.stdout)["env"].items() & CONFLICTS.items()


def test_what_a_strangers_directory_contains_is_printed_escaped(directory: Path, port: str) -> None:
    project = directory / "a\x1b]0;b\a"
    write_settings(project / ".claude/settings.json", {"model": "\ud800x", "env": {"ANTHROPIC_API_KEY": "k"}})
    settings = {**OPENAI, "HOME": str(directory), "PATH": f"{directory}:/usr/bin:/bin", "PORT": port}
    ended = run_command("code", directory=project, settings=settings)
    assert ended.stderr == (
        f"~/a\\x1b]0;b\\x07/.claude/settings.json sets ANTHROPIC_API_KEY. This session uses http://127.0.0.1:{port} "
        "instead.\n~/a\\x1b]0;b\\x07/.claude/settings.json sets model: this session requests the model \\ud800x.\n"
    )
    assert ended.returncode == 0


@pytest.mark.parametrize("form", [["--settings", "own.json"], ["--settings", "JSON"], ["--settings=JSON"]])
def test_settings_among_the_arguments_are_merged_and_named(directory: Path, port: str, form: list[str]) -> None:
    settings = {"env": {**CONFLICTS, "OTHER": "stays"}, "permissions": {"allow": ["Bash"]}}
    write_settings(directory / "project/own.json", settings)
    ended = run_in_project(directory, port, *(word.replace("JSON", json.dumps(settings)) for word in form), "-p", "hi")
    assert ended.stderr == named_lines("--settings", CONFLICTS, port)
    session = read_session(ended.stdout)
    assert (read_call(ended.stdout)[0][2:], session["permissions"]) == (["-p", "hi"], settings["permissions"])
    assert session["env"]["OTHER"] == "stays"
    assert not session["env"].items() & CONFLICTS.items()


def test_settings_without_a_json_object_are_an_error(directory: Path, port: str) -> None:
    for value, name in (("{bad", "Its value"), ("none.json", "none.json")):
        ended = run_in_project(directory, port, "--settings", value)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr == (
            f"✕ --settings of Claude Code cannot be used: {name} contains no JSON object. "
            "Pass the path of a JSON file, or a JSON object.\n"
        )


def test_a_command_that_prints_another_credential_is_disabled_and_named(directory: Path, port: str) -> None:
    write_settings(directory / ".claude/settings.json", {"apiKeyHelper": "echo other"})
    ended = run_in_project(directory, port)
    assert ended.stderr == named_lines("~/.claude/settings.json", ["apiKeyHelper"], port)
    assert read_session(ended.stdout)["apiKeyHelper"] == ""


@pytest.mark.parametrize("place", ["file", "environment"])
def test_a_credential_among_the_custom_headers_is_removed(directory: Path, port: str, place: str) -> None:
    headers = {"ANTHROPIC_CUSTOM_HEADERS": "x-team: 7\nX-Api-Key: other"}
    if place == "file":
        write_settings(directory / ".claude/settings.json", {"env": headers})
    ended = run_in_project(directory, port, **(headers if place == "environment" else {}))
    _, environment = read_call(ended.stdout)
    names = headers if place == "file" else {}
    assert ended.stderr == named_lines("~/.claude/settings.json", names, port)
    assert environment["ANTHROPIC_CUSTOM_HEADERS"] == "x-team: 7"
    assert read_session(ended.stdout)["env"]["ANTHROPIC_CUSTOM_HEADERS"] == "x-team: 7"


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "openai/gpt-5-mini"},
        {"env": {"ANTHROPIC_MODEL": "openai/gpt-5-mini"}},
        {"env": {"ANTHROPIC_DEFAULT_MODEL": "openai/gpt-5-mini"}},
        {"env": {"ANTHROPIC_DEFAULT_OPUS_MODEL": "openai/gpt-5-mini"}},
    ],
)
def test_a_model_in_a_settings_file_is_named_and_decides_the_limits(
    directory: Path, port: str, settings: dict[str, Any]
) -> None:
    write_settings(directory / ".claude/settings.json", settings)
    ended = run_in_project(directory, port)
    name = next(iter(settings.get("env", settings)))
    text = f"~/.claude/settings.json sets {name}: this session requests the model openai/gpt-5-mini.\n"
    assert ended.stderr == text
    assert read_session(ended.stdout)["env"]["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "272000"


def test_the_model_of_the_arguments_overrides_that_of_a_settings_file(directory: Path, port: str) -> None:
    write_settings(directory / ".claude/settings.json", {"model": "openai/gpt-5-mini"})
    ended = run_in_project(directory, port, "--model=sonnet[1m]")
    assert ended.stderr == ""
    assert read_session(ended.stdout)["env"]["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "1047576"


def test_a_limit_in_a_settings_file_stays(directory: Path, port: str) -> None:
    write_settings(directory / ".claude/settings.json", {"env": {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "777"}})
    ended = run_in_project(directory, port)
    assert "CLAUDE_CODE_MAX_OUTPUT_TOKENS" not in read_session(ended.stdout)["env"]


@pytest.mark.parametrize("place", ["file", "environment"])
def test_requests_to_the_proxy_bypass_the_http_proxy_of_the_user(directory: Path, port: str, place: str) -> None:
    proxied = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "example.com"}
    if place == "file":
        write_settings(directory / ".claude/settings.json", {"env": proxied})
    ended = run_in_project(directory, port, **(proxied if place == "environment" else {}))
    for variables in (read_call(ended.stdout)[1], read_session(ended.stdout)["env"]):
        assert (variables["NO_PROXY"], variables["no_proxy"]) == ("example.com,127.0.0.1", "example.com,127.0.0.1")


@pytest.mark.parametrize("name", ["settings.json", "settings.local.json"])
def test_no_host_and_no_header_of_a_project_is_passed_on(directory: Path, port: str, name: str) -> None:
    hostile = {"NO_PROXY": "*", "no_proxy": "*", "ANTHROPIC_CUSTOM_HEADERS": "x-other: 1\nX-Api-Key: other"}
    write_settings(directory / "project/.claude" / name, {"env": {"HTTPS_PROXY": "http://127.0.0.1:9", **hostile}})
    named = named_lines(f"~/project/.claude/{name}", ["ANTHROPIC_CUSTOM_HEADERS"], port)
    expected = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "ANTHROPIC_CUSTOM_HEADERS": ""}
    ended = run_in_project(directory, port)
    assert ended.stderr == named
    for variables in (read_call(ended.stdout)[1], read_session(ended.stdout)["env"]):
        assert {name: variables.get(name) for name in expected} == expected
    own = {"HTTPS_PROXY": "http://127.0.0.1:8", "NO_PROXY": "example.com"}
    write_settings(directory / ".claude/settings.json", {"env": {"ANTHROPIC_CUSTOM_HEADERS": "x-team: 7"}})
    expected |= dict.fromkeys(("NO_PROXY", "no_proxy"), "example.com,127.0.0.1")
    ended = run_in_project(directory, port, **own)
    assert ended.stderr == named
    for variables in (read_call(ended.stdout)[1], read_session(ended.stdout)["env"]):
        assert {name: variables.get(name) for name in expected} == {**expected, "ANTHROPIC_CUSTOM_HEADERS": "x-team: 7"}


def test_the_settings_of_the_home_directory_are_those_of_the_user_and_named_once(directory: Path, port: str) -> None:
    headers = {"ANTHROPIC_CUSTOM_HEADERS": "x-team: 7\nX-Api-Key: other"}
    write_settings(directory / ".claude/settings.json", {"env": headers})
    settings = {**OPENAI, "PORT": port}
    ended = run_command("code", directory=directory, settings=settings)
    assert ended.stderr == named_lines("~/.claude/settings.json", headers, port)
    assert read_session(ended.stdout)["env"]["ANTHROPIC_CUSTOM_HEADERS"] == "x-team: 7"


@pytest.mark.parametrize(
    ("version", "text"),
    [
        (
            "1.0.5 (Claude Code)",
            "  Claude Code 1.0.5 is older than 2.1.197, the oldest release that was tested with this proxy. "
            "Update it:  claude update\n",
        ),
        ("2.1.197 (Claude Code)", ""),
        ("10.0.0", ""),
        ("no version", ""),
    ],
)
def test_an_outdated_claude_code_is_reported(tmp_path: Path, version: str, text: str) -> None:
    program = tmp_path / "claude"
    program.write_text(f"#!/bin/sh\necho '{version}'\n")
    program.chmod(0o755)
    ended = run_command("code", directory=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, text)


@pytest.mark.parametrize("search_path", [":{home}", ".:{home}", "{home}:", "project:bin:{home}"])
def test_a_program_of_the_current_directory_is_not_run(directory: Path, port: str, search_path: str) -> None:
    for folder in ("project", "project/project", "project/bin"):
        (directory / folder).mkdir()
        for name in ("claude", "own"):
            install_program(directory / folder, name)
    (directory / "own").symlink_to(directory / "claude")
    settings = {**OPENAI, "HOME": str(directory), "PORT": port, "PATH": search_path.format(home=directory)}
    for words in (("code",), ("run", "own")):
        ended = run_command(*words, directory=directory / "project", settings=settings)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert json.loads(ended.stdout)["program"] == str(directory / ("claude" if words == ("code",) else "own"))
    ended = run_command("run", "none", directory=directory / "project", settings=settings)
    assert (ended.returncode, ended.stderr) == (2, '✕ There is no program "none" in PATH.\n')
    install_program(directory / "project/bin", "tool")
    relative = {**settings, "PATH": f"bin:{directory}"}
    ended = run_command("run", "tool", directory=directory / "project", settings=relative)
    assert (ended.returncode, ended.stderr) == (
        2,
        '✕ There is no program "tool" in PATH: it is only in "bin". Relative folders of PATH are not searched, because '
        "the current directory would decide. Use the absolute path of this folder.\n",
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
