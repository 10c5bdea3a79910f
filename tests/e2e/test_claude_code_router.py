"""The way of a user of claude-code-router: import of its file, a check of its servers, and Claude Code with a reply."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.claude import NOTES, TIMEOUT_SECONDS
from tests.support.fakes.openai_chat import KEY
from tests.support.fakes.server import Running
from tests.support.paths import ROOT
from tests.support.server_process import free_port


def run(words: list[str], directory: Path, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "anthropic_proxy", *words],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def test_the_imported_file_leads_to_a_reply(claude: Path, openai: Running, work: Path) -> None:
    home = work.parent / "home"
    folder = home / ".claude-code-router"
    folder.mkdir(parents=True)
    server = {"name": "mine", "api_base_url": f"{openai.url}/v1/chat/completions", "api_key": KEY}
    away = {"name": "away", "api_base_url": "http://127.0.0.1:9/v1/chat/completions", "api_key": "x"}
    config = {
        "LOG": True,
        "PORT": free_port(),
        "Providers": [
            {**server, "models": ["gpt-4.1", "o4-mini"], "transformer": {"use": ["enhancetool"]}},
            {**away, "models": ["far"]},
        ],
        "Router": {
            "default": "mine,gpt-4.1",
            "background": "mine,gpt-4.1-mini",
            "think": "mine,o4-mini",
            "longContext": "away,far",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    environment = {
        "PATH": f"{claude.parent}:/usr/bin:/bin",
        "HOME": str(home),
        "ANTHROPIC_PROXY_CONFIG": str(home),
        "TMPDIR": str(home),
        "PYTHONPATH": str(ROOT),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    imported = run(["import", str(folder / "config.json"), "--copy-keys"], work, environment)
    assert (imported.returncode, imported.stderr) == (0, "")
    doctor = run(["doctor", "--yes", "--no-learn"], work, environment)
    assert doctor.returncode == 1
    assert "no server responds at http://127.0.0.1:9" in " ".join(doctor.stdout.split())
    assert "The route long context sends requests to it." in " ".join(doctor.stdout.split())
    openai.journal.exchanges.clear()  # some probes are refused by intention
    notes, target = work / "notes.txt", work / "loud.txt"
    notes.write_text(NOTES)
    prompt = f"Read {notes} and write its words in upper case to {target}"
    ended = run(["code", "--", "-p", prompt, "--allowedTools", "Read Write Edit"], work, environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert target.read_text() == NOTES.upper()
    models = [exchange.body["model"] for exchange in openai.journal.exchanges if isinstance(exchange.body, dict)]
    assert "o4-mini" in models  # Claude Code asks for thinking in its conversations
