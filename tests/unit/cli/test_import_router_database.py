"""`import` reads the database of claude-code-router 3: servers, the profile for Claude Code and the chain of models."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support.command_line import run_command

CONFIG: dict[str, Any] = {
    "APIKEY": "",
    "APIKEYS": [],
    "PORT": 3456,
    "Providers": [
        {
            "name": "My gateway",
            "baseUrl": "https://models.example.com/v1",
            "api_key": "sk-0123456789abcdef",
            "models": ["big", "small/fast"],
            "type": "openai_chat_completions",
            "modelMetadata": {"big": {"contextWindow": 128000}},
        },
        {
            "name": "claude",
            "baseUrl": "https://claude.example.com/v1",
            "api_key": "sk-0123456789abcdefgh",
            "models": ["claude-opus-5-5"],
            "type": "anthropic_messages",
        },
    ],
    "Router": {
        "builtInRules": {"claude-code": {"enabled": True}},
        "fallback": {"mode": "model-chain", "models": ["claude/claude-opus-5-5"], "retryCount": 1},
        "rules": [],
    },
    "gateway": {"port": 3456},
    "profile": {
        "claudeCode": {"model": "claude/claude-opus-5-5"},
        "profiles": [
            {"agent": "codex", "enabled": True, "model": "claude/claude-opus-5-5"},
            {
                "agent": "claude-code",
                "enabled": True,
                "model": "My gateway/big",
                "haikuModel": "My gateway/small/fast",
                "opusModel": "",
            },
        ],
    },
}


def write_database(file: Path, value: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE app_config (key TEXT PRIMARY KEY, value_json TEXT NOT NULL, updated_at TEXT)")
        connection.execute("INSERT INTO app_config VALUES ('default', ?, '2026-11-20')", (value,))


def test_a_database_of_version_3_is_imported(tmp_path: Path) -> None:
    write_database(tmp_path / "config.sqlite", json.dumps(CONFIG))
    done = run_command("import", "config.sqlite", "--copy-keys", directory=tmp_path, settings={})
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / ".env").read_text().splitlines() == [
        "FALLBACK_HAIKU=claude/claude-opus-5-5",
        "FALLBACK_SONNET=claude/claude-opus-5-5",
        "FALLBACK_OPUS=claude/claude-opus-5-5",
        "FALLBACK_FABLE=claude/claude-opus-5-5",
        "BIG_MODEL=my-gateway/big",
        "SMALL_MODEL=my-gateway/small/fast",
        "PREFERRED_PROVIDER=my-gateway",
        "PORT=3456",
        "MY_GATEWAY_API_KEY=sk-0123456789abcdef",
        "CLAUDE_API_KEY=sk-0123456789abcdefgh",
    ]
    assert (tmp_path / "anthropic-proxy.toml").read_text() == (
        '[providers.my-gateway]\nbase_url = "https://models.example.com/v1"\n'
        'api_key = { env = "MY_GATEWAY_API_KEY" }\nmodels = ["big", "small/fast"]\n\n'
        '[providers.claude]\nbase_url = "https://claude.example.com"\n'
        'api_key = { env = "CLAUDE_API_KEY" }\nwire = "messages"\nmodels = ["claude-opus-5-5"]\n'
    )


def test_a_database_without_a_configuration_is_rejected(tmp_path: Path) -> None:
    for name, value, problem in (
        ("other.sqlite", None, "no such table: app_config"),
        ("text.sqlite", "no JSON", "it has no configuration"),
        ("list.sqlite", "[]", "it has no configuration"),
    ):
        if value is None:
            with closing(sqlite3.connect(tmp_path / name)) as connection:
                connection.execute("CREATE TABLE other (a)")
        else:
            write_database(tmp_path / name, value)
        done = run_command("import", name, directory=tmp_path, settings={})
        assert (done.returncode, done.stderr) == (
            2,
            f"✕ {name} is no config.sqlite of claude-code-router: {problem}. Its version 2 has a config.json.\n",
        )


def test_a_part_of_another_type_is_left_out(tmp_path: Path) -> None:
    write_database(tmp_path / "config.sqlite", json.dumps({"profile": {"profiles": [7]}}))
    done = run_command("import", "config.sqlite", directory=tmp_path, settings={})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[4:6] == [
        "Not the same here",
        "  ✕ profile.profiles[0]: it is not imported, because it is 7. Use an object.",
    ]
