"""Environment variables that other programs and libraries use too, such as those for color and HTTP proxies."""

import os
import threading
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.platforms.processes import list_absolute_folders
from anthropic_proxy.secrets import Secret

_SCHEMES = ("http", "https")
_BINDING = ("--host", "--bind", "-b")
"""Command-line options for the listen address of the servers uvicorn, gunicorn and hypercorn."""

_SAFE_PATH = "PYTHONSAFEPATH"
"""Name of the variable with which a new interpreter does not search the current directory for modules."""
_SAFE_PATH_OF_WORKERS = "anthropic-proxy"
"""Value that the user has not set. Every value except "" has the same effect."""


def copy_environment() -> dict[str, str]:
    return dict(os.environ)


def keep_absolute_folders_of_path() -> None:
    """Remove the empty and relative folders from PATH of this process, for a library that searches programs itself."""
    os.environ["PATH"] = list_absolute_folders(os.environ.get("PATH", os.defpath))


@contextmanager
def python_safe_path_for_workers() -> Iterator[None]:
    """Set `PYTHONSAFEPATH` while workers are started: they import no modules from the current directory.

    They still find the proxy's modules, because `multiprocessing` passes them the search path of this process. Each
    worker must call `remove_python_safe_path`.
    """
    if os.environ.get(_SAFE_PATH):
        yield
        return
    os.environ[_SAFE_PATH] = _SAFE_PATH_OF_WORKERS
    try:
        yield
    finally:
        del os.environ[_SAFE_PATH]


def remove_python_safe_path() -> None:
    """Otherwise, commands that this worker process runs for users would inherit the variable.

    A value from the user is kept.
    """
    if os.environ.get(_SAFE_PATH) == _SAFE_PATH_OF_WORKERS:
        del os.environ[_SAFE_PATH]


def find_color_setting(environ: Mapping[str, str]) -> bool | None:
    """True: colored, False: no color, None: the environment states neither.

    `NO_COLOR` overrides `FORCE_COLOR`, and `FORCE_COLOR` overrides `TERM=dumb`.
    """
    if environ.get("NO_COLOR"):
        return False
    if forced := environ.get("FORCE_COLOR", "").strip().lower():
        return forced not in ("0", "false")
    return False if environ.get("TERM") == "dumb" else None


def find_proxies(environ: Mapping[str, str]) -> dict[str, Secret]:
    """Return scheme of a base URL (`http`, `https`) → proxy for it.

    Raises `ConfigurationError` for a proxy of another kind, because requests would bypass it.
    """
    proxies: dict[str, Secret] = {}
    for scheme in _SCHEMES:
        for name in (f"{scheme}_proxy", "all_proxy"):
            variable, address = _find_variable(environ, name)
            if not address:
                continue
            address = address if "://" in address else f"http://{address}"
            kind = urlsplit(address).scheme.lower()
            if kind not in _SCHEMES:
                raise ConfigurationError(
                    f"{variable} names a {kind} proxy, which is not supported. Use an http or https proxy, or unset "
                    "it.",
                    code="proxy-kind",
                )
            proxies[scheme] = Secret(address, f"{variable} in the environment")
            break
    return proxies


def find_no_proxy_setting(environ: Mapping[str, str]) -> str:
    return _find_variable(environ, "no_proxy")[1]


def find_listen_host_option(arguments: Sequence[str]) -> str:
    """Return the listen host from the command line of an ASGI server (`--host 127.0.0.1`). "": no such option.

    A bind address without a host (`--bind=:8082`) returns `0.0.0.0`.
    """
    option, value = _find_option(arguments, _BINDING)
    host = value.removeprefix("tcp://")
    return host if option in ("", "--host") else host.rpartition(":")[0].strip("[]") or "0.0.0.0"


def find_listen_port_option(arguments: Sequence[str], environ: Mapping[str, str]) -> int | None:
    """Return the listen port of an ASGI server from its command line. None: unknown, or it listens on no port.

    uvicorn has a default, and a variable in `environ`.
    """
    if _find_option(arguments, ("--uds", "--fd"))[0]:
        return None
    value = _find_option(arguments, ("--port", "--bind", "-b"))[1].rpartition(":")[2]
    program = Path(arguments[0]) if arguments else Path()
    if not value and "uvicorn" in (program.stem, program.parent.name):  # `uvicorn` or `python -m uvicorn`
        value = environ.get("UVICORN_PORT") or "8000"
    return int(value) if value.isascii() and value.isdigit() and 0 < int(value[:6]) < 65_536 else None


def _find_option(arguments: Sequence[str], names: Collection[str]) -> tuple[str, str]:
    """Both are "" if the command line has none of `names`."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        option, _, joined = argument.partition("=")
        if option in names:
            return option, joined or following
    return "", ""


def _find_variable(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """The lower-case name has precedence. If the variable is not set, `name` and "" are returned."""
    return next(((key, value) for key in (name, name.upper()) if (value := environ.get(key, "").strip())), (name, ""))


_FOR_LITELLM = {
    "LITELLM_MODE": "PRODUCTION",  # otherwise LiteLLM loads a `.env` file itself
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # otherwise its import downloads tables
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    # the Chat Completions request has no `cache_control`: LiteLLM must add it for prompt caching of Claude on Bedrock
    "LITELLM_ENABLE_ANTHROPIC_PROMPT_CACHING": "true",
}


_exporting = threading.Lock()
"""Held by the thread that changes `os.environ` for LiteLLM."""


def export_to_litellm(variables: Mapping[str, Secret], exported: MutableMapping[str, Secret] | None = None) -> None:
    """Copy `variables` and fixed options to `os.environ`, where LiteLLM reads them. Existing variables are kept.

    `exported` contains the variables that the previous call has copied; they are removed first if they are unchanged.
    """
    with _exporting:
        for name, secret in (exported or {}).items():
            if os.environ.get(name) == secret.reveal():
                del os.environ[name]
        for name, value in _FOR_LITELLM.items():
            os.environ.setdefault(name, value)
        fresh = {name: secret for name, secret in variables.items() if name not in os.environ}
        os.environ.update({name: secret.reveal() for name, secret in fresh.items()})
        if exported is not None:
            exported.clear()
            exported.update(fresh)
