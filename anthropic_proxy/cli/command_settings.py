"""Settings of a command, from the environment and from the settings files in their one place, and the rule which
proxy a command uses.

1. A proxy whose address the user has named in `ANTHROPIC_BASE_URL` is used.
2. Else one that `serve` has started with the settings files of the command: the one on PORT, or else on the lowest
   port. A PORT in the environment excludes those on other ports.
3. Else the one on PORT, with its own settings, unless `find_other_settings` says that it is not used.
4. The proxy of another user of the machine is not used.

`local_proxy` finds out whether the proxy responds, and to whom it belongs.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from msgspec import structs

from anthropic_proxy.cli.command_line import is_verbose
from anthropic_proxy.cli.output import Output
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.providers import PROVIDERS, find_registry
from anthropic_proxy.engine.providers.model_facts import FACTS
from anthropic_proxy.engine.routing.choices import choose_preferred_provider_name
from anthropic_proxy.errors import ConfigurationError, join_with_and
from anthropic_proxy.gateway.platforms.sockets import list_called_hosts
from anthropic_proxy.gateway.running_proxy import (
    RunningProxy,
    describe_source,
    find_running_proxy,
    list_running_proxies,
    load_settings_of,
    name_reload_command,
)
from anthropic_proxy.gateway.settings import (
    Settings,
    copy_environment,
    find_env_file,
    find_listen_address,
    load_settings,
)
from anthropic_proxy.gateway.settings.place import CONFIG_VARIABLE, find_data_directory

NO_PROVIDER = "{demo}. It has no model. Next:  anthropic-proxy init"
"""`demo`: from `describe_demo`."""


def load_command_settings(
    *, resolves_keys: bool = False, of_running_proxy: bool = True, names_source: bool = False, is_client: bool = False
) -> Settings:
    """Return the settings of a command: those of the proxy that it uses, with its port, else those of the command.

    If only a command such as `code` has started a proxy with these files, texts name it as the way to start again.
    `resolves_keys` is True for a command that sends requests to providers itself: key files are read and key commands
    run. `names_source`: tell the user that the settings are those of the running proxy, also if the command has no
    others. `is_client`: the command sends requests to the proxy, and says itself if it does not use it. Raises
    `ConfigurationError` for invalid settings.
    """
    environ = copy_environment()
    env_file = find_env_file(environ)
    proxy = settings = None
    with suppress(ConfigurationError):  # HOST or PORT is invalid, which `load_settings` reports with all others
        proxy = _find_running_proxy(environ, env_file, names_others=is_client)
    if proxy is not None and of_running_proxy and not environ.get(CONFIG_VARIABLE):
        names_source = names_source or is_verbose.get()
        settings = _load_of_running_proxy(
            proxy, environ, env_file, resolves_keys=resolves_keys, names_source=names_source, is_client=is_client
        )
    if settings is None:
        settings = load_settings(environ, PROVIDERS, env_file=env_file, resolves_keys=resolves_keys)
        if of_running_proxy and env_file is not None:
            if proxy is None:
                _, sessions = list_running_proxies(settings.data_directory, env_file)
                if sessions:
                    settings = structs.replace(settings, session_command=sessions[0].session_command)
            elif proxy.env_file == str(Path(env_file).absolute()):  # the proxy of the named folder
                _name_changes(proxy, settings)
    if is_verbose.get():
        Output().write_notice(describe_files(settings))
    FACTS.replace(settings.facts)
    return settings if proxy is None else structs.replace(settings, port=proxy.port)


def _find_running_proxy(environ: Mapping[str, str], env_file: str | None, *, names_others: bool) -> RunningProxy | None:
    """Return the proxy on PORT, or one with the same settings files if that has others and the user has named none.

    `names_others`: tell the user if several proxies could be used. Raises `ConfigurationError` if HOST or PORT is
    invalid.
    """
    directory = find_data_directory(environ)
    host, port = find_listen_address(environ, env_file)
    on_port = find_running_proxy(directory, port)
    running, _ = list_running_proxies(directory, env_file)
    if not running or on_port in running or environ.get("PORT") or is_named_by_user(list_hosts(on_port, host), port):
        return on_port
    if names_others and len(running) > 1:
        ports = join_with_and([str(proxy.port) for proxy in running])
        Output().write_notice(
            f"Proxies with these settings files run on ports {ports}. This command uses port {running[0].port}. "
            "To use another one, set PORT in the environment."
        )
    return running[0]


def list_hosts(proxy: RunningProxy | None, listen_host: str) -> Collection[str]:
    """Return the addresses at which a proxy may accept connections. None: it is unknown; `listen_host` is HOST."""
    if proxy is not None and proxy.host:
        return list_called_hosts(proxy.host)
    return dict.fromkeys(("127.0.0.1", *list_called_hosts(listen_host)))


def is_named_by_user(hosts: Collection[str], port: int) -> bool:
    """Return True if `ANTHROPIC_BASE_URL` names the proxy at one of these addresses."""
    with suppress(ValueError):
        url = urlsplit(copy_environment().get("ANTHROPIC_BASE_URL", ""))
        return url.port == port and url.hostname in (*hosts, "localhost")
    return False


def _has_provider(settings: Settings) -> bool:
    """Return False if only the demo, or an Ollama server that happens to run, would reply."""
    return choose_preferred_provider_name(settings, None) != find_registry(settings).demo.name


class OtherSettings(NamedTuple):
    text: str
    """What a running proxy uses: `other settings files, in ~/anthropic-proxy`."""
    is_used: bool
    """False: a command uses its own settings, and not this proxy."""
    has_provider: bool = True
    """False: they choose none."""


def find_other_settings(
    proxy: RunningProxy | None, settings: Settings, hosts: Collection[str], port: int
) -> OtherSettings | None:
    """Return what the proxy at one of `hosts` uses in place of `settings`, those of the command. None: the same files,
    or the user has named this proxy. `proxy` is None if it has no record.
    """
    if is_named_by_user(hosts, port) or (proxy is not None and proxy.env_file == describe_source(settings).env_file):
        return None
    # `init` must be enough to replace a demo: the user need not know which proxy runs
    is_chosen = bool(settings.files and _has_provider(settings))
    if proxy is None:
        text = "settings that are not known here, for example those of another home directory or of a container"
        return OtherSettings(text, is_used=not is_chosen)
    place = f", in {shorten_home(Path(proxy.env_file).parent)}" if proxy.env_file else ""
    with suppress(ConfigurationError):
        if not _has_provider(load_settings_of(proxy, copy_environment(), resolves_keys=False)):
            return OtherSettings(f"settings without a provider{place}", is_used=False, has_provider=False)
    return OtherSettings(
        f"other settings files{place}", is_used=not (is_chosen or copy_environment().get(CONFIG_VARIABLE))
    )


def describe_other_proxy(place: str, settings: OtherSettings) -> str:
    """`place`: `on port 8082`."""
    return f"The proxy {place} is another one: it uses {settings.text}."


def _load_of_running_proxy(
    proxy: RunningProxy,
    environ: Mapping[str, str],
    env_file: str | None,
    *,
    resolves_keys: bool,
    names_source: bool,
    is_client: bool,
) -> Settings | None:
    """Return the settings of a running proxy, and name their source if the command has others of its own.

    None: the command uses its own settings. Those other than HOST and PORT may be invalid.
    """
    port = proxy.port
    host, _ = find_listen_address(environ, env_file)
    own_source = None
    output = Output()
    with suppress(ConfigurationError):
        own_settings = load_settings(environ, PROVIDERS, env_file=env_file)
        own_source = describe_source(own_settings, proxy.changed)
        other = find_other_settings(proxy, own_settings, list_hosts(proxy, host), port)
        if other and not other.is_used:
            if not is_client:
                named = f" To use those of the proxy, set  ANTHROPIC_BASE_URL={proxy.address}"
                use = named if other.has_provider else ""
                described = describe_other_proxy(f"on port {port}", other)
                output.write_notice(f"{described} This command uses its own settings.{use}")
            return None
    settings = load_settings_of(proxy, environ, resolves_keys=resolves_keys)
    if (
        names_source
        or own_source is None
        or not own_source.files.keys() <= settings.files.keys()
        or not own_source.variables.items() <= proxy.variables.items()
        or not {*own_source.keys} <= {*proxy.keys}
    ):
        names = [*proxy.variables, *proxy.keys]
        listed = [*map(shorten_home, settings.files), *([f"{', '.join(names)} of its environment"] if names else [])]
        output.write_notice(f"Settings of the running proxy (port {port}): {', '.join(listed) or 'defaults'}")
    _name_changes(proxy, settings)
    return structs.replace(settings, host=host)


def _name_changes(proxy: RunningProxy, settings: Settings) -> None:
    """Tell the user which changes in `settings`, just read, the proxy does not apply yet."""
    output = Output()
    known = {**proxy.files, **settings.files}
    if changed := [file for file in known if proxy.files.get(file) != settings.files.get(file)]:
        reload = name_reload_command(proxy)
        remedy = "To apply them" if reload else "To apply them, stop it, and start it"
        names = join_with_and([*map(shorten_home, changed)])
        output.write_notice(
            f"{names} changed since the proxy's start or last reload. This command shows the new "
            f"settings, and the proxy (port {proxy.port}) uses the earlier ones. {remedy}:  "
            f"{reload or 'anthropic-proxy serve'}",
            "!",
        )
    if proxy.changed:
        output.write_notice(
            f"{join_with_and(proxy.changed)} changed after the start of the proxy (port {proxy.port}), which applies "
            "the change at its next start. This command applies it now.",
            "!",
        )


def describe_files(settings: Settings) -> str:
    """Return the settings files that were read, as a line for the user."""
    if settings.files:
        return f"Settings files: {', '.join(map(shorten_home, settings.files))}"
    if settings.env_file is None:
        return "Settings files: none, because there is no home directory"
    return f"Settings files: none in {shorten_home(Path(settings.env_file).absolute().parent)}"
