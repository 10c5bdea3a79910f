"""Who is measured: the direct call, nginx as a plain relay, and the proxy. A further proxy is one more `Subject`."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from msgspec import Struct

from bench.bodies import cut_at_number, make_messages, say_as_chat
from bench.load import Shot
from bench.processes import Process
from bench.replies import read_wanted
from bench.wires import Wire, body_of, settings_of

CHECKOUT = Path(__file__).resolve().parent.parent


class Subject(Struct, frozen=True, kw_only=True):
    """One way from the client to the upstream."""

    name: str
    translates: bool
    """Whether it is spoken to in the Messages API; else in Chat Completions, as the upstream is."""
    start: Callable[[Path, int, int], Process] | None
    """Starts it in a directory, at a port, towards the upstream's port; None: the upstream itself."""

    start_for_wires: Callable[[Path, int, int], Process] | None = None
    """Starts it so that it serves all of `bench.wires`, where that takes another process."""

    def shot(self, size: int, reply: str, wire: Wire | None = None) -> Shot:
        """Return a request of `size` bytes that asks the upstream for this reply (`bench.replies`), in `wire`."""
        return _shot(size, reply, wire, translates=self.translates)


@cache
def _shot(size: int, reply: str, wire: Wire | None, *, translates: bool) -> Shot:
    wanted = read_wanted(reply)
    request = make_messages(size, f"{wire.prefix if wire else 'openai/'}{reply}", stream=bool(wanted.pieces))
    if wire and not translates:  # a relay does not read the body, so that its language does not matter
        body, path = cut_at_number(say_as_chat(request)), wire.path_of(reply, wanted)
        return Shot(path=path, body=body, wanted=wanted, exact=body_of(wire, wanted))
    if not translates:
        return Shot(path="/v1/chat/completions", body=cut_at_number(say_as_chat(request)), wanted=wanted)
    headers = "anthropic-version: 2023-06-01\r\nx-api-key: bench\r\nUser-Agent: bench\r\n"
    return Shot(path="/v1/messages?beta=true", body=cut_at_number(request), wanted=wanted, headers=headers)


def start_upstream(directory: Path, port: int) -> Process:
    """Start the provider of the bench."""
    return Process([sys.executable, "-m", "bench.upstream", str(port)], CHECKOUT, _environment(), "upstream", directory)


def _start_proxy(directory: Path, port: int, upstream: int) -> Process:
    settings = {
        "PREFERRED_PROVIDER": "openai",
        "OPENAI_API_KEY": "sk-bench-0000",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{upstream}/v1",
        "OPENAI_WIRE": "chat",
    }
    return _serve(directory, port, settings)


def _start_proxy_for_wires(directory: Path, port: int, upstream: int) -> Process:
    return _serve(directory, port, settings_of(upstream))


def _serve(directory: Path, port: int, settings: dict[str, str]) -> Process:
    command = [sys.executable, "-m", "anthropic_proxy", "serve", "--port", str(port)]
    return Process(command, directory, {**_environment(), **settings}, f"proxy-{port}", directory)


def _start_nginx(directory: Path, port: int, upstream: int) -> Process:
    # Where nginx was built with these modules, it wants their directories even though nothing uses them.
    built = subprocess.run(["nginx", "-V"], capture_output=True, text=True, check=True).stderr
    unused = [name for name in ("fastcgi", "uwsgi", "scgi") if f"--without-http_{name}_module" not in built]
    unused_paths = "".join(f"  {name}_temp_path {directory}/{name};\n" for name in unused)
    configuration = directory / f"nginx-{port}.conf"
    configuration.write_text(
        f"""daemon off;
master_process off;
pid {directory}/nginx-{port}.pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_max_body_size 64m;
  client_body_buffer_size 8m;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/relay;
{unused_paths}  upstream provider {{ server 127.0.0.1:{upstream}; keepalive 128; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    keepalive_requests 1000000;
    location / {{
      proxy_pass http://provider;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""
    )
    command = ["nginx", "-p", str(directory), "-e", "stderr", "-c", str(configuration)]
    return Process(command, directory, _environment(), f"nginx-{port}", directory)


def _environment() -> dict[str, str]:
    """Return what a process needs to run at all: no key, no setting and no way through another proxy gets in."""
    kept = re.compile(r"PATH|HOME|LANG|LC_\w+|TMPDIR|VIRTUAL_ENV|LD_LIBRARY_PATH|SYSTEMROOT")
    found = {name: value for name, value in os.environ.items() if kept.fullmatch(name)}
    return {**found, "PYTHONPATH": str(CHECKOUT)}


DIRECT = Subject(name="direct", translates=False, start=None)
NGINX = Subject(name="nginx", translates=False, start=_start_nginx)
PROXY = Subject(name="anthropic-proxy", translates=True, start=_start_proxy, start_for_wires=_start_proxy_for_wires)


def find_subjects() -> tuple[list[Subject], list[str]]:
    """Return who can be measured here, and a line for each who cannot."""
    if shutil.which("nginx"):
        return [DIRECT, NGINX, PROXY], []
    return [DIRECT, PROXY], ["nginx is not installed, so the floor (a plain relay) is not measured."]
