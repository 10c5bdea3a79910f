"""Command `completion` and the option `--install-completion`: shells complete commands, options and values."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import run_command
from tests.support.paths import ROOT

BASH = shutil.which("bash") or "/bin/bash"


def complete(script: str, *words: str) -> list[str]:
    """Return the words that bash offers in place of the last of `words`."""
    typed = " ".join(f"'{word}'" for word in words)
    commands = f"{script}\nCOMP_WORDS=({typed})\nCOMP_CWORD={len(words) - 1}\n_anthropic_proxy\n"
    ended = subprocess.run(
        [BASH, "-c", commands + 'printf "%s\\n" "${COMPREPLY[@]}"'], capture_output=True, text=True, check=True
    )
    return ended.stdout.split()


def test_bash_completes_commands_options_and_values(tmp_path: Path) -> None:
    script = run_command("completion", "bash", directory=tmp_path).stdout
    assert complete(script, "anthropic-proxy", "hea") == ["health"]
    assert complete(script, "anthropic-proxy", "env", "--sh") == ["--shell"]
    assert complete(script, "anthropic-proxy", "env", "--shell", "") == ["sh", "fish", "powershell", "cmd"]


def test_bash_completes_files_and_providers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "request.json").touch()
    (tmp_path / "anthropic-proxy.toml").write_text('[providers.own]\nbase_url = "http://127.0.0.1:9/v1"\n')
    program = tmp_path / "anthropic-proxy"
    program.write_text(f"#!{sys.executable}\nfrom anthropic_proxy.cli import main\nmain()\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("ANTHROPIC_PROXY_CONFIG", str(tmp_path))
    script = run_command("completion", "bash", directory=tmp_path).stdout
    for command in ("explain", "lint-stream", "import"):
        assert complete(script, "anthropic-proxy", command, "req") == ["request.json"]
    assert complete(script, "anthropic-proxy", "models", "o") == ["openai", "ollama", "own"]
    assert complete(script, "anthropic-proxy", "doctor", "openai", "gr") == ["groq"]
    assert complete(script, "anthropic-proxy", "init", "--provider", "mo") == ["moonshot"]


@pytest.mark.parametrize("shell", ["zsh", "fish", "powershell"])
def test_other_shells_ask_the_program_for_providers(shell: str, tmp_path: Path) -> None:
    script = run_command("completion", shell, directory=tmp_path).stdout
    assert "__complete" in script
    assert shell != "zsh" or re.search(r"'1:JSON body.*:_files'", script)


@pytest.mark.parametrize(
    ("shell", "beginning"),
    [
        ("zsh", "#compdef anthropic-proxy"),
        ("fish", "# Fish completion for anthropic-proxy"),
        ("powershell", "# PowerShell completion for anthropic-proxy"),
    ],
)
def test_each_shell_has_its_script(shell: str, beginning: str, tmp_path: Path) -> None:
    ended = run_command("completion", shell, directory=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(beginning)
    assert "lint-stream" in ended.stdout


def test_the_script_is_installed_for_the_shell_of_the_user(tmp_path: Path) -> None:
    (tmp_path / ".bashrc").write_text("alias own=true\n")
    (tmp_path / "ps").write_text("#!/bin/sh\ntouch was_run\necho fish\n")
    (tmp_path / "ps").chmod(0o755)
    settings = {"SHELL": "/bin/bash", "PATH": f".::{os.environ['PATH']}"}
    ended = run_command("--install-completion", directory=tmp_path, settings=settings)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert not (tmp_path / "was_run").exists()
    startup = (tmp_path / ".bashrc").read_text()
    assert startup.startswith("alias own=true\n")
    script = f". {tmp_path / '.bashrc'}"
    assert complete(script, "anthropic-proxy", "hea") == ["health"]
