"""`doctor --forget`: the running proxy forgets what refusals of a model have shown."""

from pathlib import Path

from tests.support.command_line import run_command
from tests.support.server_process import reserve_closed_port, running_proxy

KEYS = {"PROXY_API_KEY": "pk-0123456789", "ADMIN_API_KEY": "admin-0123456789"}


def test_the_command_asks_the_running_proxy(tmp_path: Path) -> None:
    settings = {"PREFERRED_PROVIDER": "demo", **KEYS}
    with running_proxy(tmp_path, settings) as proxy:
        here = {**settings, "PORT": proxy.url.rpartition(":")[2]}
        done = run_command("doctor", "--forget", "demo/demo", directory=tmp_path, settings=here)
    port = reserve_closed_port()
    nowhere = {**settings, "PORT": port}
    absent = run_command("doctor", "--forget", "demo/demo", directory=tmp_path, settings=nowhere)
    assert (done.returncode, done.stdout) == (0, "  Nothing was known about refusals of demo/demo.\n")
    assert (absent.returncode, absent.stdout) == (2, "")
    assert absent.stderr == (
        f"✕ No proxy responds on port {port} (PORT) of this machine. Start it:  anthropic-proxy serve\n"
    )
