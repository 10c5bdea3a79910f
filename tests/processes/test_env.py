"""Command `env`: variables for a client, as commands of each shell."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.command_line import OPENAI, run_command
from tests.support.server_process import running_proxy


def test_a_posix_shell_reads_the_commands(closed_port: str, tmp_path: Path) -> None:
    settings = {"PORT": closed_port, "PROXY_API_KEY": "pk-one"}
    lines = run_command("env", "--shell", "sh", directory=tmp_path, settings=settings).stdout
    script = f'{lines}\nprintf %s "$ANTHROPIC_BASE_URL $ANTHROPIC_AUTH_TOKEN"'
    read = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert read == f"http://127.0.0.1:{closed_port} pk-one"


def test_a_running_proxy_gives_the_limits_of_the_model(tmp_path: Path) -> None:
    with running_proxy(tmp_path, OPENAI) as proxy:
        settings = {"PORT": proxy.url.rpartition(":")[2]}
        ended = run_command("env", "--json", directory=tmp_path, settings=settings)
    assert (json.loads(ended.stdout), ended.stderr) == (
        {
            "ANTHROPIC_BASE_URL": proxy.url,
            "ANTHROPIC_AUTH_TOKEN": "local",
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "1047576",
            "CLAUDE_CODE_AUTO_COMPACT_WINDOW": "1047576",
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "32768",
            "CLAUDE_CODE_GATEWAY_HINT_HEADERS": "1",
            "ENABLE_TOOL_SEARCH": "auto:1",
            **{
                name: value
                for tier, model, target, price in (
                    ("OPUS", "claude-opus-5-5", "openai/gpt-4.1", "$2/$8"),
                    ("SONNET", "claude-sonnet-5-5", "openai/gpt-4.1", "$2/$8"),
                    ("HAIKU", "claude-haiku-5-5", "openai/gpt-4.1-mini", "$0.40/$1.60"),
                    ("FABLE", "claude-fable-5-2", "openai/gpt-4.1", "$2/$8"),
                )
                for name, value in (
                    (f"ANTHROPIC_DEFAULT_{tier}_MODEL", model),
                    (f"ANTHROPIC_DEFAULT_{tier}_MODEL_NAME", target),
                    (
                        f"ANTHROPIC_DEFAULT_{tier}_MODEL_DESCRIPTION",
                        f"replies to {tier.lower()}, 1.0 M context, {price} per Mtok",
                    ),
                )
            },
        },
        "",
    )


@pytest.mark.parametrize("words", [("env",), ("run", "true"), ("ask", "hello")])
def test_a_key_that_the_running_proxy_rejects_is_an_error(words: tuple[str, ...], tmp_path: Path) -> None:
    with running_proxy(tmp_path, {**OPENAI, "PROXY_API_KEY": "pk-0123456789abcdef"}) as proxy:
        ended = run_command(*words, directory=tmp_path, settings={"PORT": proxy.url.rpartition(":")[2]})
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        2,
        "",
        f"✕ The proxy at {proxy.url} requires a key, and these settings have none that it accepts. "
        "Set PROXY_API_KEY to one of its keys, in .env or in the environment.\n",
    )
