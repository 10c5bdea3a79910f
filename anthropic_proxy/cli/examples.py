"""Examples at the end of the help of each command.

`add_examples` adds them, and `MAIN_EXAMPLES` is the text for the main command.
"""

from collections.abc import Mapping

from cyclopts import App as Commands

MAIN_EXAMPLES = """Examples:

- anthropic-proxy: serve on http://127.0.0.1:8082
- anthropic-proxy serve --port 8083: serve on another port
- anthropic-proxy init: choose a provider and write .env
- anthropic-proxy code: run Claude Code with the proxy
- anthropic-proxy ask "hello": ask a model one question
- anthropic-proxy doctor: examine the configured backends

Settings come from the environment and from .env in one folder, which config show names.
All of them: anthropic-proxy config show --all.

Every command accepts --config DIR, the folder of .env and anthropic-proxy.toml, and -v, which names the files read.

In a checkout, python3 scripts/serve.py takes the same options as serve."""
"""Text with examples at the end of the help of the main command."""

_EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "serve": ("serve", "serve --port 8083"),
    "code": ("code", "code -- --resume"),
    "run": ("run -- python3 script.py",),
    "ask": ('ask "hello"', 'ask --model openai/gpt-4.1 "hello"'),
    "doctor": ("doctor", "doctor openai", "doctor openai/gpt-4.1 --report report.md"),
    "init": ("init", "init --provider openai --key-from-env OPENAI_API_KEY --yes"),
    "env": ("env", "env --shell fish"),
    "models": ("models", "models openai", "models openai/gpt-4.1"),
    "prices": ("prices update", "prices update --from prices.json"),
    "config": ("config show --all", "config check"),
    "db": ("db check", "db export > requests.csv"),
    "keys": (
        "keys create ci --team build --budget 50USD/month",
        "keys list",
        "keys rotate ci --overlap 24h",
        "keys revoke ci",
    ),
    "health": ("health", "health --json"),
    "logs": ("logs", "logs --errors", "logs --live"),
    "usage": ("usage --since 7d --by day", "usage --since yesterday --by project", "usage --since 30d --csv"),
    "explain": (
        "explain --last",
        "explain request.json",
        "explain request.json --body",
        "explain - --json < request.json",
    ),
    "replay": ("replay req_01JD8QWK5T", "replay --last --model openai/gpt-4.1"),
    "routes": (
        "routes list",
        "routes explain request.json",
        "routes explain request.json --key alice --at 2026-11-20T23:30",
    ),
    "lint-stream": ("lint-stream reply.sse", "lint-stream - < reply.sse"),
    "service": ("service install", "service status"),
    "import": ("import config.yaml --dry-run", "import config.json"),
    "completion": ("completion bash",),
    "version": ("version",),
}
"""Name of a command → example command lines, without the name of the program."""


def add_examples(commands: Commands) -> None:
    """Append examples to the help of each command in `commands`."""
    for name, lines in _EXAMPLES.items():
        listed = "\n".join(f"- anthropic-proxy {line}" for line in lines)
        commands[name].help_epilogue = f"Examples:\n\n{listed}"
