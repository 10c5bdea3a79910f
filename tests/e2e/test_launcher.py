"""The command `code` with the real Claude Code: it finds its proxy and the limits of the model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.claude import NOTES
from tests.support.paths import ROOT

TIMEOUT_SECONDS = 240


def run_code(claude: Path, work: Path, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """`settings`: those of the proxy. Without any, no provider is set up, and an HTTP proxy that is down."""
    return run_command(claude, work, "code", "--", *arguments, **settings)


def run_command(claude: Path, work: Path, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    home = work.parent / "home"
    home.mkdir(exist_ok=True)
    nowhere = "http://127.0.0.1:9"
    environment = {
        "PATH": f"{claude.parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "ANTHROPIC_PROXY_CONFIG": str(home),
        "TMPDIR": str(home),
        "PYTHONPATH": str(ROOT),
        "OLLAMA_API_BASE": nowhere,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "HTTPS_PROXY": nowhere,
        "HTTP_PROXY": nowhere,
        **settings,
    }
    return subprocess.run(
        [sys.executable, "-m", "anthropic_proxy", *arguments],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def test_claude_code_works_with_a_proxy_of_its_own(claude: Path, work: Path) -> None:
    (work / "quince.txt").write_text("jelly\n")
    ended = run_code(claude, work, "-p", "list the files here", "--allowedTools", "Bash")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "quince.txt" in ended.stdout


def test_the_ledger_has_the_lines_of_each_session_of_a_person_alone(
    claude: Path, work: Path, settings: dict[str, str]
) -> None:
    notes, target = work / "notes.txt", work / "loud.txt"
    for more in ({}, {"OTEL_METRICS_EXPORTER": "none"}):  # the person's own variables stay
        notes.write_text(NOTES)
        target.unlink(missing_ok=True)
        prompt = f"Read {notes} and write its words in upper case to {target}"
        own = {**settings, **more}
        ended = run_code(claude, work, "-p", prompt, "--allowedTools", "Read Write Edit", **own)
        assert (ended.returncode, target.exists()) == (0, True), ended.stderr
        read = run_command(claude, work, "usage", "--by", "project", "--json", **settings)
        (group,) = json.loads(read.stdout)["groups"]
        assert (group["name"], group["activity"]["lines_added"]) == ("work", 4)


def test_claude_code_shows_the_context_window_of_the_model(claude: Path, work: Path) -> None:
    ended = run_code(claude, work, "-p", "/context")
    assert re.search(r"\*\*Tokens:\*\* [\d.]+k / 128k ", ended.stdout), ended.stdout


def test_a_settings_file_with_another_address_is_overridden(claude: Path, work: Path) -> None:
    (work / ".claude").mkdir()
    (work / ".claude/settings.local.json").write_text(json.dumps({"env": {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}}))
    ended = run_code(claude, work, "-p", "hello")
    assert "demonstration of anthropic-proxy" in ended.stdout
    assert "settings.local.json sets ANTHROPIC_BASE_URL. This session uses http://127.0.0.1:" in ended.stderr


def test_settings_of_the_user_are_merged_with_those_of_the_session(claude: Path, work: Path) -> None:
    elsewhere = {"env": {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "CLAUDE_CODE_USE_BEDROCK": "1"}}
    (work / ".claude").mkdir()
    (work / ".claude/settings.json").write_text(json.dumps({"apiKeyHelper": "exit 3"}))
    ended = run_code(claude, work, "--settings", json.dumps(elsewhere), "-p", "hello")
    assert "demonstration of anthropic-proxy" in ended.stdout
    address = "http://127.0.0.1:"
    assert re.sub(r":\d+", ":", ended.stderr).splitlines() == [
        f"{work}/.claude/settings.json sets apiKeyHelper. This session uses {address} instead.",
        f"--settings sets ANTHROPIC_BASE_URL. This session uses {address} instead.",
        f"--settings sets CLAUDE_CODE_USE_BEDROCK. This session uses {address} instead.",
    ]
