"""Measured subjects: the direct call, nginx as a relay, and the proxy; see also `bench.other_gateways`."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from bench.bodies import Body, cut_at_number, make_messages, to_chat_body, with_system_at_the_top
from bench.load import RequestSample
from bench.processes import Process
from bench.replies import Wanted, read_wanted
from bench.wires import CHAT, Wire

CHECKOUT = Path(__file__).resolve().parent.parent

Start = Callable[[Path, int, int], Process]
"""Function that starts a subject in a directory, at a port, towards the upstream's port."""


class Subject(Struct, frozen=True, kw_only=True, eq=False):
    """One way from the client to the upstream."""

    name: str
    start: Start | None
    """None: the upstream itself."""
    translates: bool
    """True if it takes requests in the Messages API; else they are in the wire format of the upstream."""
    wire: Wire = CHAT
    """Wire format of the upstream."""
    model: str = "{}"
    """Name of a model in a request to the subject; `{}` is the place of the wanted upstream reply."""
    share: float = 1.0
    """Share of a plan's work it gets: a subject that takes hundreds of microseconds per event needs fewer events."""
    separates: bool = False
    """True if each piece of a stream must come out of it by itself."""
    optional: bool = False
    """True if the run continues when it fails: its place in the table then shows the reason."""
    reply_kind: str = "text"
    """The kind of events that the upstream sends it, as `bench.replies` names it."""
    accepts_late_system: bool = True
    """True if it takes a system message in the middle of a conversation; else the same text stands at the top."""
    changes: tuple[tuple[str, Any], ...] = ()
    """Further fields of its requests."""
    find_key: Callable[[], str] = lambda: "bench"
    """Returns the key that clients send, after the start."""

    def shot(self, size: int, reply: str) -> RequestSample:
        """Return a request of `size` bytes that asks the upstream for this reply (`bench.replies`)."""
        wanted = read_wanted(reply)
        if self.translates:
            body = self._messages_body(size, self.model.format(reply), bool(wanted.pieces))
            headers = f"anthropic-version: 2023-06-01\r\nx-api-key: {self.find_key()}\r\nUser-Agent: bench\r\n"
            path = "/v1/messages?beta=true"
            return RequestSample(path=path, body=body, wanted=wanted, headers=headers, separate=self.separates)
        body = _chat_body(size, reply, bool(wanted.pieces))  # a relay does not read it: its language does not matter
        return RequestSample(
            path=self.wire.path_of(reply, wanted), body=body, wanted=wanted, exact=_exact(self.wire, wanted)
        )

    def _messages_body(self, size: int, model: str, stream: bool) -> Body:
        key = (size, model, stream, self.accepts_late_system, repr(self.changes))
        if key not in _made:
            request = {**dict(self.changes), **make_messages(size, model, stream=stream)}
            _made[key] = cut_at_number(request if self.accepts_late_system else with_system_at_the_top(request))
        return _made[key]


_made: dict[tuple[object, ...], Body] = {}


@cache
def _chat_body(size: int, model: str, stream: bool) -> Body:
    return cut_at_number(to_chat_body(make_messages(size, model, stream=stream)))


@cache
def _exact(wire: Wire, wanted: Wanted) -> bytes:
    return wire.body(wanted)


def start_upstream(directory: Path, port: int) -> Process:
    """Start the provider of the bench."""
    environment = {**bare_environment(), "PYTHONPATH": str(CHECKOUT)}
    return Process([sys.executable, "-m", "bench.upstream", str(port)], CHECKOUT, environment, "upstream", directory)


def start_proxy(
    directory: Path,
    port: int,
    upstream: int,
    *,
    settings: Mapping[str, str] = CHAT.settings,
    options: tuple[str, ...] = (),
    module: str = "anthropic_proxy",
    checkout: Path = CHECKOUT,
    python: str = sys.executable,
) -> Process:
    """Start the proxy with these settings, which may contain `{origin}` for the upstream's address.

    `module` runs from the sources in `checkout`, by the interpreter `python`. Its ledger is in the directory, so that
    the ledger of the user contains no requests of the bench.
    """
    origin = f"http://127.0.0.1:{upstream}"
    variables = {"DATABASE_URL": f"sqlite:///{directory.absolute()}/ledger-{port}.sqlite3"}
    variables |= {name: value.format(origin=origin) for name, value in settings.items()}
    command = [python, "-m", module, "serve", "--port", str(port), *options]
    environment = {**bare_environment(), "PYTHONPATH": str(checkout), **variables}
    return Process(command, directory, environment, f"proxy-{port}", directory)


PLAIN = {"location": "", "upstream": ""}
KEEPING = {
    "location": 'proxy_http_version 1.1;\n      proxy_set_header Connection "";\n      ',
    "upstream": "keepalive 128;",
}
"""Directives that make nginx keep its connections to the upstream, which it does not by default."""


def write_nginx_configuration(
    directory: Path, port: int, upstream: int, *, workers: int = 1, mode: Mapping[str, str] = PLAIN
) -> str:
    """Return the configuration of a plain relay that keeps bodies in memory and writes no log."""
    # Where nginx was built with these modules, it wants their directories even though nothing uses them.
    built = subprocess.run(["nginx", "-V"], capture_output=True, text=True, check=True).stderr
    unused = [name for name in ("fastcgi", "uwsgi", "scgi") if f"--without-http_{name}_module" not in built]
    unused_paths = "".join(f"  {name}_temp_path {directory}/{name};\n" for name in unused)
    return f"""daemon off;
worker_processes {workers};
pid {directory}/nginx-{port}.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_max_body_size 64m;
  client_body_buffer_size 16m;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/relay;
{unused_paths}  upstream provider {{ server 127.0.0.1:{upstream}; {mode["upstream"]} }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    keepalive_requests 1000000;
    location / {{
      proxy_pass http://provider;
      {mode["location"]}proxy_buffering off;
    }}
  }}
}}
"""


def start_nginx(
    directory: Path, port: int, upstream: int, *, workers: int = 1, mode: Mapping[str, str] = PLAIN
) -> Process:
    """Start nginx as a plain relay."""
    configuration = directory / f"nginx-{port}.conf"
    configuration.write_text(write_nginx_configuration(directory, port, upstream, workers=workers, mode=mode))
    command = ["nginx", "-p", str(directory), "-e", "stderr", "-c", str(configuration)]
    return Process(command, directory, bare_environment(), f"nginx-{port}", directory)


def bare_environment() -> dict[str, str]:
    """Return the minimum environment of a process: without keys, settings and HTTP proxies."""
    kept = re.compile(r"PATH|HOME|LANG|LC_\w+|TMPDIR|VIRTUAL_ENV|LD_LIBRARY_PATH|SYSTEMROOT")
    own = {"ANTHROPIC_PROXY_CONFIG": str(Path(__file__).parent)}  # has no settings files
    return {**own, **{name: value for name, value in os.environ.items() if kept.fullmatch(name)}}


DIRECT = Subject(name="direct", translates=False, start=None)
NGINX = Subject(name="nginx", translates=False, start=start_nginx)
NGINX_KEEPING = Subject(
    name="nginx, kept connections", translates=False, start=partial(start_nginx, mode=KEEPING), optional=True
)
PROXY = Subject(name="anthropic-proxy", translates=True, start=start_proxy, model=CHAT.model, separates=True)


def speaking(wire: Wire) -> tuple[Subject, Subject, Subject]:
    """Return the direct call, nginx and the proxy towards an upstream of that language."""
    proxy = structs.replace(PROXY, wire=wire, model=wire.model, start=partial(start_proxy, settings=wire.settings))
    return structs.replace(DIRECT, wire=wire), structs.replace(NGINX, wire=wire), proxy


def nginx_is_here() -> bool:
    """Return whether nginx is installed."""
    return shutil.which("nginx") is not None
