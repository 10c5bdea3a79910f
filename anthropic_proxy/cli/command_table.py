"""All commands with what `--help` says of them.

The list of all commands needs no module of a command: cyclopts imports the module when its command is used, so that
these modules have their imports at the top. A description stands here because that list shows its first line.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Command(NamedTuple):
    """One row of the table."""

    path: str
    """Function or group of commands, as `module:name` below `anthropic_proxy.cli`."""
    description: str
    examples: tuple[str, ...]
    """Command lines without the name of the program."""


_FIRST_STEPS = {
    "init": Command(
        "init:init",
        """Choose a provider and its models, test the key and write the settings to .env.

Existing lines change only if you agree. Without a terminal, each line of standard input is an answer.""",
        ("init", "init --provider openai --key-from-env OPENAI_API_KEY --yes"),
    ),
    "serve": Command(
        "commands:serve",
        "Serve the Anthropic Messages API until SIGINT (Ctrl+C) or SIGTERM stops the server.",
        ("serve", "serve --port 8083"),
    ),
    "code": Command(
        "code:code",
        """Run Claude Code with the proxy. Its arguments are passed to Claude Code: `code --continue`.

The proxy of your settings, or that on PORT, is used if it runs. Otherwise one is started, and stopped afterwards.
Claude Code gets the address, a credential, the names of the real models, and the input and output limits of the mapped
model. Unless you have set them yourself, it also gets a status line, and tool search if the tools are large for the
model.""",
        ("code", "code --resume"),
    ),
    "run": Command(
        "code:run",
        """Run a program with the variables that make Anthropic SDKs and Claude Code use the proxy: \
`run -- python x.py`.

The proxy of your settings, or that on PORT, is used if it runs. Otherwise one is started, and stopped afterwards. \
`run -- claude` is `code`.""",
        ("run -- python3 script.py",),
    ),
    "ask": Command(
        "ask:ask",
        """Send one question through the proxy and print the reply while it arrives.

The proxy of your settings, or that on PORT, is used if it runs. Otherwise one is started, and stopped afterwards.""",
        ('ask "hello"', 'ask --model openai/gpt-4.1 "hello"'),
    ),
    "env": Command(
        "code:env",
        """Print the variables for Claude Code and the Anthropic SDKs, as shell commands.

Use `eval` to set them in the shell itself.""",
        ("env", "env --shell fish", 'eval "$(anthropic-proxy env)"'),
    ),
}
_EACH_DAY = {
    "logs": Command(
        "logs:logs",
        """Print the last requests of the running proxy, then each request when it ends, until Ctrl+C.

The lines are the same as in the log of the proxy, for the requests of all its workers. They contain no message
content. Requests that the proxy no longer keeps come from the ledger. If no proxy runs, all requests come from the
ledger.""",
        ("logs", "logs --errors", "logs --live"),
    ),
    "usage": Command(
        "usage:usage",
        "Show requests, tokens and costs, from the ledger of this machine or from DATABASE_URL.",
        ("usage --since 7d --by day", "usage --since yesterday --by project", "usage --since 30d --csv"),
    ),
    "use": Command(
        "use:use",
        """Give your running sessions another model with their next request: `use openai/gpt-5.5`, `use default`.

It first says what the lost cache costs and whether the conversation fits. Only your own sessions change, of the
project of the current directory. The rules of your key and the routes hold as for any request. Without a model, the
sessions are listed.""",
        (
            "use openai/gpt-5.5",
            "use haiku --session 3f2a91c4",
            "use groq/llama-3.3-70b-versatile --dry-run",
            "use default",
        ),
    ),
    "models": Command(
        "models:models",
        "Show the model that each Claude model is sent to, or the models of a provider, with limits and prices.",
        ("models", "models openai", "models openai/gpt-4.1"),
    ),
    "explain": Command(
        "explain:explain",
        """Show how a stored request was routed, or how a captured one would be routed. Nothing is sent.

With --body or --model, the stored text (LEDGER_CONTENT=true) is translated again with the current settings.

Exit status 0: the request was served, or would be sent; 1: it failed, or the proxy would reject it.""",
        (
            "explain",
            "explain 2",
            "explain request.json",
            "explain request.json --body",
            "explain - --json < request.json",
        ),
    ),
    "routes": Command(
        "routes:routes",
        "Show the routes of anthropic-proxy.toml, or explain one.",
        ("routes list", "routes explain request.json", "routes explain request.json --key alice --at 2026-11-20T23:30"),
    ),
    "replay": Command(
        "replay:replay",
        """Send a stored request again and print the reply while it arrives. Tool calls of the reply are not run.

The ledger must have the text of the request (LEDGER_CONTENT=true), in which keys are redacted. The proxy of
your settings, or that on PORT, is used if it runs. Otherwise one is started, and stopped afterwards.""",
        ("replay req_01JD8QWK5T", "replay --last --model openai/gpt-4.1", "replay --check report-req_01JD8QWK5T"),
    ),
    "report": Command(
        "report:report",
        """Write one stored exchange as a folder for a bug report, after you have seen its files.

By default the files contain the structure only: lengths in place of texts, other names and ids. The ledger must have
the texts of the request (LEDGER_CONTENT=true). `replay --check FOLDER` examines a report.""",
        ("report LAST", "report req_01JD8QWK5T --to folder", "report 2 --texts"),
    ),
    "doctor": Command(
        "doctor.command:doctor",
        """Probe the configured backends: address, key, tools, images, thinking, limits and more.

The requests are sent to the real providers and cost a few thousand tokens. Exit status: 0 all backends are ready,
1 a fix is needed, 2 no provider is configured or none responds.""",
        ("doctor", "doctor openai", "doctor openai/gpt-4.1 --report report.md", "doctor --auto-mode openai/gpt-4.1"),
    ),
    "health": Command(
        "health:health",
        "Check whether a proxy responds on port PORT of this machine. Exit status 0: yes; 2: no.",
        ("health", "health --json", "health --alive"),
    ),
}
_SET_UP = {
    "config": Command(
        "config:config", "Show the settings with their sources, or check them.", ("config show --all", "config check")
    ),
    "login": Command(
        "remote_proxy:login",
        """Sign in at the proxy of a company with a browser, so that `keys` shows and changes your keys there.

The tokens are stored in sign-in.json of the settings folder of this user, which nobody else reads.""",
        ("login https://proxy.example.org",),
    ),
    "logout": Command(
        "remote_proxy:logout", "End the sign-in at the proxy of a company, and delete its tokens.", ("logout",)
    ),
    "keys": Command(
        "keys:keys",
        "Create, list, change, rotate and revoke virtual keys for clients.",
        (
            "keys create ci --team build --budget 50USD/month",
            "keys list",
            "keys rotate ci --overlap 24h",
            "keys revoke ci",
            "keys sign-out ann@example.org",
            "keys allow ann@example.org",
        ),
    ),
    "db": Command(
        "db:db",
        "Migrate, check, export, back up or restore the database of the usage ledger.",
        ("db check", "db export > requests.csv", "db backup ledger-backup.sqlite3", "db restore ledger-backup.sqlite3"),
    ),
    "service": Command(
        "service:service",
        "Run the proxy in the background, started at login (systemd, launchd, Windows).",
        ("service install", "service status"),
    ),
    "import": Command(
        "importing:import_settings",
        """Write the settings of another proxy's configuration as .env and anthropic-proxy.toml.

The format is detected: config.json or config.sqlite of claude-code-router, config.yaml of LiteLLM's proxy, or .env of
an earlier proxy. Lines are added to the settings files in their folder; existing ones are never changed. In a terminal,
the command asks if the keys of the file are copied. Rules that depend on the request become [[routes]]. Entries with an
equivalent are renamed or converted. Every other entry that is set is named; --dry-run says what happens to it.""",
        ("import", "import config.yaml --dry-run"),
    ),
    "add": Command(
        "add:add",
        """Install extras: optional packages, such as those of the dashboard. Without a name, list all extras.

It uses what the proxy was installed with: pip, pipx, uv, or the lock files of a checkout.""",
        ("add", "add dashboard prices"),
    ),
    "completion": Command(
        "completion:completion",
        "Print the completion script of a shell. The option --install-completion installs it for your shell.",
        ("completion bash", "--install-completion"),
    ),
}
_FOR_PROGRAMS = {
    "statusline": Command(
        "statusline:statusline",
        """Print the status line of Claude Code: model, provider, window, costs, cache, retries.

`code` sets it up, unless you have a status line. It reads the JSON of Claude Code from standard input, and asks the
running proxy, at most 0.8 seconds. Costs come from the ledger.""",
        ("statusline < session.json",),
    ),
    "lint-stream": Command(
        "lint_stream:lint_stream",
        """Check a captured event stream of the Messages API against the grammar of its events.

Each violation is one line: file, line, event, rule and cause. Exit status 0: valid; 1: violations.""",
        ("lint-stream reply.sse", "lint-stream - < reply.sse"),
    ),
    "conformance": Command(
        "conformance:check_conformance",
        """Check whether a server speaks the Messages API: `conformance URL --model M`.

It is the suite `messages-conformance`, and its options are passed to it; without arguments they are listed. Exit
status 0: as expected; 1: failures; 2: the arguments are wrong, or nothing answers.""",
        ("conformance http://127.0.0.1:8082 --model claude-sonnet-4-5", "conformance --list"),
    ),
    "version": Command("commands:print_version", "Print the version of this program.", ("version",)),
}
PANELS = {"First steps": _FIRST_STEPS, "Each day": _EACH_DAY, "Set up": _SET_UP, "For other programs": _FOR_PROGRAMS}
"""Heading in the list of all commands → name of a command → its row."""
COMMANDS: Mapping[str, Command] = {name: row for rows in PANELS.values() for name, row in rows.items()}

MAIN_EXAMPLES = (
    ("choose a provider and write .env", "init"),
    ("run Claude Code with the proxy", "code"),
    ("serve on http://127.0.0.1:8082", "serve"),
    ("serve on another port", "serve --port 8083"),
    ("ask a model one question", 'ask "hello"'),
    ("examine the configured providers", "doctor"),
    ("show all settings", "config show --all"),
    ("show what a command accepts", "code --help"),
)
"""What a user can do, with the command for it."""
MAIN_NOTES = """Settings come from the environment and from .env in one folder, which config show names.

Without a command, serve runs. Every command accepts --config DIR, the folder of .env and anthropic-proxy.toml, \
and -v, which names the files read.

In a checkout, python3 scripts/serve.py takes the same options as serve."""
"""Text at the end of the help of the main command."""
