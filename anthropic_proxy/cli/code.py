"""Commands `code`, `run` and `env`, which make Claude Code or another client use the proxy.

`code` and `run` use the proxy that runs on this machine, or start one and stop it when the client ends. Environment
variables make a client use it. Settings files of Claude Code override its environment, so that `code` also passes the
option `--settings`, which only files of the organization override.
"""

import itertools
import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import quote

from cyclopts import Parameter
from msgspec import Struct, structs

from anthropic_proxy.cli.command_settings import NO_PROVIDER, is_named_by_user, load_command_settings
from anthropic_proxy.cli.local_proxy import (
    LocalProxy,
    client_token,
    find_any_proxy,
    open_proxy,
    require_accepted_credential,
    require_used_proxy,
)
from anthropic_proxy.cli.output import Output
from anthropic_proxy.console import formats
from anthropic_proxy.console.client_limits import ServedModels, find_served_models, list_window_variables
from anthropic_proxy.console.client_models import (
    MAIN_MODELS,
    MODELS_PATH,
    MODELS_TIMEOUT_SECONDS,
    TIERS,
    build_model_picker,
    list_limit_variables,
    list_name_variables,
)
from anthropic_proxy.console.client_variables import (
    ASSUMED_MODEL,
    HINTS,
    LIMITING_MODEL,
    LIST_MODELS,
    NO_LONG_CONTEXT,
    NO_TELEMETRY,
    OTEL_PREFIX,
    TELEMETRY,
    TOOL_SEARCH,
    list_telemetry_variables,
)
from anthropic_proxy.console.doctor.server_tables import find_window_setting
from anthropic_proxy.engine.options import LONG_CONTEXT_SUFFIX
from anthropic_proxy.engine.patterns import AnchoredPattern, compile_anchored
from anthropic_proxy.engine.platforms.files import managed_claude_settings_paths, read_bounded_file
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.platforms.shells import Shell, find_shell, format_set_command, quote_word
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.engine.providers.catalog import Catalog, load_learned_models
from anthropic_proxy.engine.providers.hosts import find_server_name
from anthropic_proxy.engine.routing.model_listing import list_tier_mappings
from anthropic_proxy.engine.routing.problems import find_missing_key_of
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.platforms.processes import (
    describe_missing_program,
    find_program,
    proxy_command,
    run_in_foreground,
)
from anthropic_proxy.gateway.platforms.signals import restore_sighup
from anthropic_proxy.gateway.problems import describe_demo, find_problems
from anthropic_proxy.gateway.running_proxy import find_running_proxy
from anthropic_proxy.gateway.settings import Settings, copy_environment
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable
from anthropic_proxy.secrets import redact_secrets

_CLAUDE = "claude"
_DEMO = "demo/"
CUSTOM_HEADERS = "ANTHROPIC_CUSTOM_HEADERS"
"""Variable with headers for every request of Claude Code, one in each line. A header among them can be a credential."""
_SERVER_VARIABLES = (
    "ANTHROPIC_BASE_URL",
    "ANTHROPIC_UNIX_SOCKET",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_MANTLE",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_USE_GATEWAY",
    "CLAUDE_CODE_USE_ANTHROPIC_AWS",
    "CLAUDE_CODE_USE_ANTHROPIC_GOOGLE_CLOUD",
)
_CREDENTIAL_VARIABLES = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
_CREDENTIAL_HEADER = compile_anchored(r"\s*(?:x-api-key|authorization)\s*:", re.IGNORECASE)
_PROJECT_HEADER = compile_anchored(r"\s*x-project\s*:", re.IGNORECASE)
_OPEN_HEADERS = ("anthropic-beta", "user-agent", "x-claude-code-agent-id", "x-claude-code-session-id", "x-project")
"""Headers that the proxy reads and whose values are no secrets."""
_HEADER_CHARACTERS = " !#$&'()*+,:;=?@[]^`{|}"
"""Special characters in names of folders that are not escaped in a header."""
_HTTP_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_CLIENT_VARIABLES_UNPROXIED = ("NO_PROXY", "no_proxy")
_MODEL_OPTION = compile_anchored(r"--model(?:=(.+))?")
_MODEL_CHARACTERS = "/:@"
"""Special characters in model names that are not escaped in a URL path."""
_LIMIT_VARIABLES = (
    "CLAUDE_CODE_MAX_CONTEXT_TOKENS",
    "CLAUDE_CODE_AUTO_COMPACT_WINDOW",
    "CLAUDE_AUTOCOMPACT_PCT_OVERRIDE",
    "CLAUDE_CODE_MAX_OUTPUT_TOKENS",
    LIMITING_MODEL,
    ASSUMED_MODEL,
    NO_LONG_CONTEXT,
    TOOL_SEARCH,
)
_SINGLE_QUESTION = {"-p", "--print", "-h", "--help", "-v", "--version"}
OLDEST_TESTED_VERSION = (2, 1, 197)
"""Oldest version of Claude Code that was tested with the proxy."""
_VERSION = compile_anchored(rb"(\d{1,9})\.(\d{1,9})\.(\d{1,9})")
_EXIT_NOT_FOUND = 127
"""Exit status of `sh` and `env` for a program that they do not find."""
_VERSION_SECONDS = 5.0
"""Maximum time in seconds for Claude Code to print its version."""
_Arguments = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]


def code(*arguments: _Arguments) -> None:
    _run_claude(_find_program(_CLAUDE, "Install Claude Code:  npm install -g @anthropic-ai/claude-code"), arguments)


def _run_claude(program: str, arguments: Sequence[str]) -> NoReturn:
    """Run Claude Code with the proxy, also if a settings file of its user or of a project names another server."""
    _report_outdated(program)
    option, others = separate_settings_option(arguments)
    environ = copy_environment()
    levels = read_claude_settings(environ, Path.cwd(), option)
    command_settings = load_command_settings(is_client=True)
    with (
        open_proxy(command_settings, "code") as proxy,
        tempfile.TemporaryDirectory(prefix="anthropic-proxy-") as folder,
    ):
        own_variables = effective_environment([level for level in levels if not level.is_of_project], environ)
        effective = effective_environment(levels, environ)
        served = _find_served_models(proxy, command_settings)
        requested = list_requested_models(effective, others, find_selected_model(levels))
        variables = client_variables(proxy, served, requested, own_variables, effective)
        variables |= name_project(variables, own_variables, effective, Path.cwd())
        if command_settings.ledger_activity and proxy.has_ledger():
            variables |= turn_on_metrics(proxy, effective)
        output = Output(sys.stderr)
        if served.tiers and all(tier.target.startswith(_DEMO) for tier in served.tiers) and is_conversation(others):
            is_known = find_running_proxy(command_settings.data_directory, proxy.port) is not None
            if proxy.log_file or is_known or not is_named_by_user((proxy.host,), proxy.port):
                output.write_line(NO_PROVIDER.format(demo=describe_demo(command_settings)))
            else:  # it does not read what `init` writes here
                output.write_line(
                    f"The demo of the proxy at {proxy.address} replies, which ANTHROPIC_BASE_URL names. It has no "
                    "model. To use your own settings, unset ANTHROPIC_BASE_URL."
                )
        of_session = structs.replace(command_settings, session_command="code") if proxy.log_file else command_settings
        require_key(of_session, requested)
        problems = find_problems(of_session, Catalog(), date.today())
        output.write_problems(problem for problem in problems if problem.is_error or is_conversation(others))
        if is_conversation(others) and (limit := describe_limit(served, variables, command_settings)):
            output.write_notice(limit)
        for level in levels:
            notices = []
            for name in find_overrides(level, variables):
                if level.is_managed:
                    raise ConfigurationError(
                        f"Claude Code would not use this proxy: {level.source} sets {name}, which overrides the value "
                        "of this command. Remove that line or ask its owner.",
                        code="overridden-settings",
                    )
                notices.append(f"{level.source} sets {name}. This session uses {proxy.address} instead.")
            for name, text in list_named_settings(level, others, own_variables, variables).items():
                notices.append(f"{level.source} sets {name}: this session {text}.")
            for notice in notices:
                output.write_line(escape_unprintable(notice))
        settings = Path(folder) / "settings.json"  # no text of the command line: other users can read that
        picker = build_model_picker(served.tiers, variables, served.prices, effective, requested)
        settings.write_text(json.dumps(merge_settings(levels, variables, picker), indent=2), encoding="utf-8")
        started_at = time.time()
        status = _run((program, "--settings", str(settings), *others), variables)
        is_watched = is_conversation(others) and sys.stdin.isatty() and sys.stderr.isatty()
        page = describe_page(proxy, find_project(environ, Path.cwd()), started_at) if is_watched else ""
    if status == _EXIT_NOT_FOUND:
        text = f"{program} ended with status {status}: a program that it needs is not in PATH, such as Node.js."
        Output().write_notice(text, "!")
    elif is_watched:
        # at the end of a conversation, and of its question about a new folder, Claude Code names its own command
        Output().write_notice(f"With this proxy:  anthropic-proxy code{' --continue' if status == 0 else ''}")
        if page:
            Output().write_notice(page)
    sys.exit(status)


def describe_page(proxy: LocalProxy, project: str, started_at: float) -> str:
    """Return where the dashboard shows the session that has ended. "": it had no request, or there is no dashboard.

    `started_at`: start of Claude Code, in seconds since the epoch.
    """
    receipts = [logged.receipt for logged in proxy.get_recent_requests().finished]
    sessions = {
        receipt.session
        for receipt in receipts
        if receipt.session and receipt.started_at >= started_at and receipt.project in (project, "")
    }
    if not sessions or not proxy.has_dashboard():
        return ""
    if proxy.log_file is not None:  # it ends with this command
        return "The dashboard has this session while a proxy runs. To keep one:  anthropic-proxy service install"
    if len(sessions) > 1:  # of other terminals in the same project
        return f"Sessions:  {proxy.address}/dashboard/sessions"
    return f"This session:  {proxy.address}/dashboard/session?session={quote(sessions.pop(), safe='')}"


def run(*command: _Arguments) -> None:
    if not command:
        raise ConfigurationError(
            "The program is missing. Example:  anthropic-proxy run -- python agent.py", code="command-line"
        )
    program = _find_program(command[0], "")
    if Path(program).stem == _CLAUDE:  # variables alone would let a file of a project choose the server
        _run_claude(program, command[1:])
    settings = load_command_settings(is_client=True)
    with open_proxy(settings, "run") as proxy:
        environ = copy_environment()
        served = _find_served_models(proxy, settings)
        variables = client_variables(proxy, served, list_requested_models(environ), environ, environ)
        status = _run((program, *command[1:]), variables)
    sys.exit(status)


def env(*, shell: Shell | None = None, as_json: bool = False) -> None:
    """Parameters
    ----------
    shell
        Shell that reads the commands; the default is the shell of the user.
    as_json
        Print one JSON object instead.
    """
    settings = load_command_settings(is_client=True)
    running = find_any_proxy(settings)
    if running is not None:
        require_used_proxy(running)  # a client with these variables would use it
        require_accepted_credential(running)
    proxy = running or LocalProxy("127.0.0.1", settings.port, "", client_token(settings))
    environ = copy_environment()
    output = Output()
    served = _find_served_models(proxy, settings)
    variables = client_variables(proxy, served, list_requested_models(environ), environ, environ)
    if ASSUMED_MODEL in variables:
        output.write_notice(describe_limit(served, variables, settings))
    if as_json:
        output.write_json(variables)
        return
    for name, value in variables.items():
        output.write_text(f"{format_set_command(shell or find_shell(environ), name, value)}\n")
    if running is None:
        output.write_notice(
            f"No proxy responds on port {settings.port} (PORT), so the limits of the model are missing. "
            "Start it:  anthropic-proxy serve"
        )


def is_conversation(arguments: Sequence[str]) -> bool:
    """Return False for a single question, and for a command of Claude Code such as `mcp list`."""
    return all(word.startswith("-") for word in arguments[:1]) and not _SINGLE_QUESTION & {*arguments}


def _report_outdated(program: str) -> None:
    """Write one line if the installed Claude Code is older than `OLDEST_TESTED_VERSION`. `program`: its path."""
    try:
        ended = subprocess.run([program, "--version"], capture_output=True, timeout=_VERSION_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return  # the start of the program reports it
    version_match = _VERSION.match(ended.stdout)
    if version_match is not None and tuple(map(int, version_match.groups())) < OLDEST_TESTED_VERSION:
        version = version_match[0].decode()
        oldest = ".".join(map(str, OLDEST_TESTED_VERSION))
        Output().write_notice(
            f"Claude Code {version} is older than {oldest}, the oldest release that was tested with this proxy. "
            "Update it:  claude update"
        )


def _find_program(name: str, remedy: str) -> str:
    environ = copy_environment()
    if (program := find_program(name, environ)) is not None:
        return program
    if problem := describe_missing_program(name, environ):
        raise ConfigurationError(f'There is no program "{name}" in PATH: {problem}.', code="missing-program")
    raise ConfigurationError(f'There is no program "{name}" in PATH. {remedy}'.rstrip(), code="missing-program")


def _run(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run `command` in the foreground, with `variables` in its environment, and return its exit status."""
    restore_sighup()  # a child process inherits the blocked signal
    try:
        return run_in_foreground(command, child_environment(variables, copy_environment()))
    except OSError as error:
        reason = describe_os_error(error)
        if isinstance(error, FileNotFoundError) and Path(command[0]).exists():
            reason = "its first line names a program that does not exist"
        raise ConfigurationError(f"{command[0]} cannot be started: {reason}.", code="missing-program") from None


def _find_served_models(proxy: LocalProxy, settings: Settings) -> ServedModels:
    return find_served_models(proxy.get_json(MODELS_PATH, MODELS_TIMEOUT_SECONDS), settings)


def client_variables(
    proxy: LocalProxy,
    served: ServedModels,
    requested: Sequence[str],
    environ: Mapping[str, str],
    effective: Mapping[str, str],
) -> dict[str, str]:
    """Return the environment variables that make a client use `proxy`: address, credential, limits and model names.

    `requested`: models of a conversation. `environ`: variables of the user. Hosts of NO_PROXY and custom headers of the
    result are from there only. `effective`: variables that the client would use, if files of a project can change them.
    A limit or name that is set there is left out of the result, so that it stays in use.
    """
    variables = {"ANTHROPIC_BASE_URL": proxy.address}
    # Claude Code would send even requests to this machine to an HTTP proxy
    if any(place.get(name) or place.get(name.lower()) for place in (environ, effective) for name in _HTTP_PROXIES):
        entries = ",".join(environ.get(name, "") for name in _CLIENT_VARIABLES_UNPROXIED).split(",")
        hosts = dict.fromkeys(filter(None, (*map(str.strip, entries), proxy.host)))
        variables |= dict.fromkeys(_CLIENT_VARIABLES_UNPROXIED, ",".join(hosts))
    if proxy.token:
        variables["ANTHROPIC_AUTH_TOKEN"] = proxy.token
        if any(has_credential_header(place.get(CUSTOM_HEADERS, "")) for place in (environ, effective)):
            header_lines = environ.get(CUSTOM_HEADERS, "").split("\n")
            variables[CUSTOM_HEADERS] = "\n".join(line for line in header_lines if not _CREDENTIAL_HEADER.match(line))
    # with rows for the tiers, the models of the list would be twenty further rows of the menu
    names = list_name_variables(served.tiers, served.prices, effective) or {LIST_MODELS: "1"}

    def read_models(names: Sequence[str]) -> list[dict[str, Any]]:
        """Return what the proxy says of each model. Those that it cannot name are left out."""
        paths = [f"/v1/models/{quote(name, safe=_MODEL_CHARACTERS, errors='replace')}" for name in names]
        return [entry for path in paths if isinstance(entry := proxy.get_json(path, MODELS_TIMEOUT_SECONDS), dict)]

    limits = list_window_variables(read_models, served, requested) | list_limit_variables(served.tiers)
    optional = limits | names | {HINTS: "1"}
    if "CLAUDE_CODE_MAX_CONTEXT_TOKENS" in effective:
        optional.pop(ASSUMED_MODEL, None)
    return variables | {name: value for name, value in optional.items() if name not in effective}


def turn_on_metrics(proxy: LocalProxy, effective: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with which Claude Code sends its metrics to `proxy`. Empty: the user has set some for
    telemetry, which stay in use, or wants none.
    """
    names = (TELEMETRY, *NO_TELEMETRY)
    is_set = any(name in names or name.startswith(OTEL_PREFIX) for name, value in effective.items() if value)
    return {} if is_set else list_telemetry_variables(proxy.address, proxy.token)


def describe_limit(served: ServedModels, variables: Mapping[str, str], settings: Settings) -> str:
    """Return which model makes the window of the session smaller than that of its main model, and what to do; or that
    its window is assumed. "": neither.

    `variables`: from `client_variables`.
    """
    if assumed := variables.get(ASSUMED_MODEL):
        window_text = formats.short_count(int(variables["CLAUDE_CODE_MAX_CONTEXT_TOKENS"]))
        text = f"The context of {assumed} is unknown, so {window_text} tokens are assumed."
        prefix, _, model = assumed.partition("/")
        command = f"ask its server:  anthropic-proxy doctor {quote_word(assumed)}"
        provider = find_registry(settings).find_by_prefix(prefix)
        if provider is None:
            return f"{text} To know it, {command}"
        server = find_server_name(provider, settings)
        examined, _ = load_learned_models(settings.data_directory, date.today())
        way = find_window_setting(provider, model, settings).sentence
        return f"{text} If you know it, {way}." + ("" if (server, model) in examined else f" Else {command}")
    limiting = variables.get(LIMITING_MODEL, "")
    window = int(variables.get("CLAUDE_CODE_MAX_CONTEXT_TOKENS", "0"))
    main = max((tier for tier in served.tiers if tier.tier in MAIN_MODELS), key=lambda tier: tier.window, default=None)
    if not limiting or main is None or main.window <= window:
        return ""
    if formats.short_count(main.window) == formats.short_count(window):
        return ""
    tier = next((tier.tier for tier in served.tiers if limiting in (tier.target, tier.otherwise)), "")
    use = f"the model of {tier}" if tier else "a model of a route"
    main_window = f"{main.target or 'The main model'} has {formats.short_count(main.window)}."
    text = f"This session has a context of {formats.short_count(window)} tokens, the limit of {limiting}, {use}"
    if tier == "haiku":
        place = f"  in {shorten_home(settings.env_file)}" if settings.env_file else ""
        return f"{text}, which sub-agents use. {main_window} Another model for haiku:  SMALL_MODEL=PREFIX/MODEL{place}"
    return f"{text}. {main_window}"


def name_project(
    variables: Mapping[str, str], environ: Mapping[str, str], effective: Mapping[str, str], directory: Path
) -> dict[str, str]:
    """Return the variable with which Claude Code names the project of `directory` in each request.

    The project is the git repository, or else `directory` itself. Empty: `directory` is the home directory, the user
    names a project, or a file of the project sets headers, which would be lost. `variables`: from `client_variables`.
    """
    own_headers = environ.get(CUSTOM_HEADERS, "")
    is_lost = CUSTOM_HEADERS not in variables and effective.get(CUSTOM_HEADERS, "") != own_headers
    headers = variables.get(CUSTOM_HEADERS, own_headers).splitlines()
    if is_lost or any(map(_PROJECT_HEADER.match, headers)):
        return {}
    project = quote(find_project(environ, directory), safe=_HEADER_CHARACTERS, errors="replace")
    return {CUSTOM_HEADERS: "\n".join([*headers, f"x-project: {project}"])} if project else {}


def find_project(environ: Mapping[str, str], directory: Path) -> str:
    """Return the name of the git repository, or else of the directory. "": it is the home directory."""
    home = Path(environ.get("HOME") or Path.home()).resolve()
    if directory == home:
        return ""
    inside = itertools.takewhile(lambda folder: folder != home, (directory, *directory.parents))
    return next((folder.name for folder in inside if (folder / ".git").exists()), directory.name)


def conflicting_variables(variables: Mapping[str, str]) -> Sequence[str]:
    """Return the names of variables by which a client would use another server or credential than the proxy.

    Those with credentials are included only if `variables`, from `client_variables`, contain a credential for the
    proxy. Otherwise the client needs its own credential, which the proxy forwards.
    """
    return (*_SERVER_VARIABLES, *(_CREDENTIAL_VARIABLES if "ANTHROPIC_AUTH_TOKEN" in variables else ()))


def child_environment(variables: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    conflicts = conflicting_variables(variables)
    return {**{name: value for name, value in environ.items() if name not in conflicts}, **variables}


def has_credential_header(headers: str) -> bool:
    """`headers`: value of `ANTHROPIC_CUSTOM_HEADERS`."""
    return any(map(_CREDENTIAL_HEADER.match, headers.splitlines()))


def list_requested_models(
    environ: Mapping[str, str], arguments: Sequence[str] = (), setting: str = ""
) -> Sequence[str]:
    """Return the models that Claude Code requests for a conversation, from its variables, arguments and settings.

    `setting`: model in the settings of Claude Code; "": none.
    """
    chosen = environ.get("ANTHROPIC_MODEL") or setting or environ.get("ANTHROPIC_DEFAULT_MODEL") or ""
    for position, argument in enumerate(arguments):
        option = _MODEL_OPTION.fullmatch(argument)
        if option is not None:
            chosen = option[1] or "".join(arguments[position + 1 : position + 2]) or chosen
    models = (chosen,) if chosen not in ("", "default", "best") else MAIN_MODELS
    requested = []
    for model in models:
        name = model.removesuffix(LONG_CONTEXT_SUFFIX)
        tier = "opus" if name == "opusplan" else name
        if tier in TIERS:  # an alias, whose model a variable can replace
            name = environ.get(f"ANTHROPIC_DEFAULT_{tier.upper()}_MODEL") or f"claude-{tier}"
        requested.append(name)
    return requested


def require_key(settings: Settings, requested: Sequence[str]) -> None:
    """Raise `ConfigurationError` if opus has no key and the user has chosen no other model: each request would fail.

    `requested`: from `list_requested_models`.
    """
    catalog = Catalog()
    for row in list_tier_mappings(settings, catalog) if len(requested) > 1 else ():
        if row.tier == "opus" and (problem := find_missing_key_of(row.choices[0], settings, catalog)):
            raise ConfigurationError(problem.text, code="provider-key-missing")


# Tests with version 2.1.328: `--settings` overrides all files except those managed by the organization.
# If `--settings` is repeated, the last one counts.
_OPTION = "--settings"
_CREDENTIAL_COMMAND = "apiKeyHelper"
"""Setting with a shell command that prints a credential.

Claude Code sends this credential in addition to the one in the variables.
"""
_UNPROXIED = "NO_PROXY"
_STATUS_LINE = "statusLine"
_MODEL_NAMES = "modelPicker"
"""Setting with names of models, which also the header of Claude Code shows."""


class ClaudeSettings(Struct, frozen=True):
    """Settings in one settings file of Claude Code, or in its option `--settings`."""

    source: str
    """Path of the file, with `~` for the home directory, or `--settings`."""
    content: Mapping[str, Any]
    is_managed: bool = False
    """True if the file is managed by the organization. No option overrides such a file."""
    is_of_project: bool = False
    """True if the file is in the current directory, where a stranger may have written it."""

    @property
    def environment(self) -> dict[str, str]:
        variables = self.content.get("env")
        return {name: str(value) for name, value in variables.items()} if isinstance(variables, dict) else {}


def read_claude_settings(environ: Mapping[str, str], directory: Path, option: str | None) -> list[ClaudeSettings]:
    """Return the settings of Claude Code from its files and its option `--settings`, the lowest precedence first.

    Raises `ConfigurationError` for an invalid `option`, but ignores invalid files.
    """
    home = Path(environ.get("CLAUDE_CONFIG_DIR") or Path(environ.get("HOME") or Path.home()) / ".claude")
    user_file = home / "settings.json"
    project_files = [directory / ".claude" / name for name in ("settings.json", "settings.local.json")]
    given: Any = None
    if option is not None:
        name = "Its value" if option.lstrip().startswith("{") else option
        with suppress(ValueError, RecursionError):
            given = _read_object(directory / option) if name == option else json.loads(option)
        if not isinstance(given, dict):
            raise ConfigurationError(
                f"--settings of Claude Code cannot be used: {name} contains no JSON object. "
                "Pass the path of a JSON file, or a JSON object.",
                code="settings-option",
            )

    def read(files: Iterable[Path], *, is_managed: bool = False, is_of_project: bool = False) -> list[ClaudeSettings]:
        return [
            ClaudeSettings(shorten_home(file), content, is_managed, is_of_project)
            for file in files
            if (content := _read_object(file)) is not None
        ]

    return [
        *read([user_file]),
        *read([file for file in project_files if file != user_file], is_of_project=True),
        *([] if given is None else [ClaudeSettings(_OPTION, given)]),
        *read(managed_claude_settings_paths(environ), is_managed=True),
    ]


def separate_settings_option(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the value of `--settings` in `arguments` of Claude Code, and the others. None: without the option."""
    value: str | None = None
    others: list[str] = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if argument == "--":
            return value, [*others, argument, *remaining]
        if argument == _OPTION and remaining:
            value = remaining.pop(0)
        elif argument.startswith(f"{_OPTION}="):
            value = argument.partition("=")[2]
        else:
            others.append(argument)
    return value, others


def effective_environment(levels: Sequence[ClaudeSettings], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that Claude Code uses. `levels`: the lowest precedence first."""
    merged = dict(environ)
    for level in levels:
        merged |= level.environment
    return merged


def find_selected_model(levels: Sequence[ClaudeSettings]) -> str:
    """Return the model that the settings of Claude Code select. "": none. `levels`: the lowest precedence first."""
    models = [model for level in levels if isinstance(model := level.content.get("model"), str)]
    return models[-1] if models else ""


def find_overrides(level: ClaudeSettings, variables: Mapping[str, str]) -> list[str]:
    """Return the names of settings by which Claude Code would use another server or credential than the proxy.

    `variables` are the environment variables by which a client uses the proxy, from `client_variables`.
    """
    conflicts = conflicting_variables(variables)
    overrides = [
        name
        for name, value in level.environment.items()
        if name in conflicts and value not in ("", variables.get(name))
    ]
    has_token = "ANTHROPIC_AUTH_TOKEN" in variables
    if has_token and has_credential_header(level.environment.get(CUSTOM_HEADERS, "")):
        overrides.append(CUSTOM_HEADERS)
    if has_token and level.content.get(_CREDENTIAL_COMMAND):
        overrides.append(_CREDENTIAL_COMMAND)
    if level.is_managed and level.environment.get(_UNPROXIED, variables.get(_UNPROXIED)) != variables.get(_UNPROXIED):
        overrides.append(_UNPROXIED)
    return overrides


class _NamedSetting(Struct, frozen=True):
    """A setting of Claude Code that a line names, because it changes models, their names or limits, or what is sent."""

    pattern: AnchoredPattern[str]
    """Matches the name of a variable in `env`, or of a setting if `is_variable` is False."""
    text: str
    """What this session does, with the value as `{}`."""
    is_variable: bool = True
    of_all_files: bool = False
    """True: also in the user's own files. False: only in files of a project, where a stranger may have written it."""


_NAMED_SETTINGS = (
    _NamedSetting(
        compile_anchored(f"ANTHROPIC_(DEFAULT_|SMALL_FAST_|DEFAULT_({'|'.join(map(str.upper, TIERS))})_)?MODEL"),
        "requests the model {}",
        of_all_files=True,
    ),
    _NamedSetting(compile_anchored(r"model"), "requests the model {}", is_variable=False, of_all_files=True),
    _NamedSetting(
        compile_anchored(r"fallbackModel"), "requests {} after a failure", is_variable=False, of_all_files=True
    ),
    _NamedSetting(compile_anchored(r"modelOverrides"), "requests {}", is_variable=False, of_all_files=True),
    _NamedSetting(compile_anchored(r"availableModels"), "offers only the models {}", is_variable=False),
    _NamedSetting(
        compile_anchored(r"CLAUDE_CODE_\w*SUBAGENT_MODEL", most=200),
        "requests the model {} for sub-agents",
        of_all_files=True,
    ),
    _NamedSetting(compile_anchored(r"ANTHROPIC_CUSTOM_MODEL_OPTION"), "offers the model {}"),
    _NamedSetting(compile_anchored("|".join(_LIMIT_VARIABLES)), "uses {}"),
    _NamedSetting(compile_anchored(r"(ANTHROPIC|CLAUDE_CODE)_\w*MODEL\w*", most=200), "uses {}"),
    _NamedSetting(compile_anchored(CUSTOM_HEADERS), "sends {}"),
    _NamedSetting(compile_anchored(_MODEL_NAMES), "shows its names of models", is_variable=False),
    _NamedSetting(compile_anchored(_STATUS_LINE), "runs {} for its status line", is_variable=False),
)
"""The first row that matches a name decides."""
_OVERRIDDEN_BY_OPTION = ("model", "ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_MODEL")
"""Settings that `--model` of Claude Code overrides."""


def list_named_settings(
    level: ClaudeSettings, arguments: Sequence[str], own_variables: Mapping[str, str], variables: Mapping[str, str]
) -> dict[str, str]:
    """Return the settings in `level` of which the user is told: name → what this session does.

    Those that `--model` in `arguments` overrides are left out, and those of `--settings`, which are for this run.
    `own_variables`: those of the client without the files of a project. `variables`: those with which it is started.
    """
    if level.source == _OPTION:
        return {}
    ignored = _OVERRIDDEN_BY_OPTION if any(map(_MODEL_OPTION.fullmatch, arguments)) else ()
    if CUSTOM_HEADERS in variables:  # which replace those of the file
        ignored = (*ignored, CUSTOM_HEADERS)
    sentences: dict[str, str] = {}
    for row in _NAMED_SETTINGS:
        values: Mapping[str, Any] = level.environment if row.is_variable else level.content
        for name, value in values.items():
            if not value or name in ignored or name in sentences or row.pattern.fullmatch(name) is None:
                continue
            if row.of_all_files or (level.is_of_project and not (row.is_variable and value == own_variables.get(name))):
                sentences[name] = row.text.format(_describe_value(name, value))
    return sentences


def _describe_value(name: str, value: Any) -> str:
    if name == CUSTOM_HEADERS:
        shown = []
        for line in value.splitlines():
            header, _, text = (part.strip() for part in line.partition(":"))
            is_open = header.lower() in _OPEN_HEADERS  # the value of another one may be secret
            shown.append(f"{header}: {formats.shorten(redact_secrets(text, ()))}" if is_open else header)
        return ", ".join(filter(None, shown))
    if isinstance(value, dict):
        value = value.get("command") or [f"{other} in place of {replaced}" for replaced, other in value.items()]
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return formats.shorten(redact_secrets(text, ()))


STATUS_LINE_SECONDS = 10
"""Time in seconds after which Claude Code runs the command `statusline` again. The ledger stores requests in batches,
so that the cost of a turn can be missing directly after its end."""


def merge_settings(
    levels: Sequence[ClaudeSettings], variables: Mapping[str, str], model_picker: Mapping[str, Any] = {}
) -> dict[str, Any]:
    """Return a value (JSON object) for the option `--settings` that makes Claude Code use the proxy.

    `model_picker`: from `build_model_picker`.

    The result contains the user's own `--settings`, except for those that select another server or credential.
    """
    given = next((level for level in levels if level.source == _OPTION), ClaudeSettings(_OPTION, {}))
    disabled = dict.fromkeys(conflicting_variables(variables), "")
    merged = {**given.content, "env": {**given.environment, **disabled, **variables}}
    if any(_CREDENTIAL_COMMAND in find_overrides(level, variables) for level in levels):
        merged[_CREDENTIAL_COMMAND] = ""
    if not any(_STATUS_LINE in level.content for level in levels):
        words = proxy_command("statusline")
        command = subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)
        merged[_STATUS_LINE] = {"type": "command", "command": command, "refreshInterval": STATUS_LINE_SECONDS}
    if model_picker and not any(_MODEL_NAMES in level.content for level in levels):
        merged[_MODEL_NAMES] = model_picker
    return merged


def _read_object(file: Path) -> dict[str, Any] | None:
    try:
        content: Any = json.loads(read_bounded_file(file).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
