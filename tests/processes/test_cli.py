"""The command line: options, addresses, and errors at the start."""

import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy import __version__
from anthropic_proxy.cli.commands import commands
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.server.listener import open_listener
from tests.support.command_line import run_command
from tests.support.paths import ROOT
from tests.support.server_process import ending, environment_of, reserve_closed_port, running_proxy
from tests.support.small_disk import fill_disk, mounted_disk
from tests.support.waiting import WAIT_SECONDS, wait_for

WHOLE = {"OPENAI_API_KEY": "sk-test-0123456789abcdef"}


def run(*words: str, directory: Path, settings: Mapping[str, str] = WHOLE) -> "subprocess.CompletedProcess[str]":
    if words[0] == "anthropic_proxy":
        return run_command(*words[1:], directory=directory, settings=settings)
    own = environment_of(directory)
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=directory,
        env={**own, **settings},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("module", ["server:app", "app.main:app"])
def test_a_wrong_setting_under_another_server_is_one_line(module: str, tmp_path: Path) -> None:
    words = ("uvicorn", module, "--port", "0")
    ended = run(*words, directory=tmp_path, settings={"PREFERRED_PROVIDER": "opnai"})
    assert ended.returncode not in (0, None)
    (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("INFO:")]
    assert line.startswith('✕ PREFERRED_PROVIDER is "opnai". Use openai, ')


def test_where_letters_are_few_the_sign_is_made_of_them(tmp_path: Path) -> None:
    settings = {"PREFERRED_PROVIDER": "opnai", "PYTHONIOENCODING": "ascii"}
    assert run("anthropic_proxy", directory=tmp_path, settings=settings).stderr.startswith("xx PREFERRED_PROVIDER")


def test_any_free_port_is_the_one_that_is_shown(tmp_path: Path) -> None:
    own = environment_of(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "anthropic_proxy", "--port", "0", "--host", "0.0.0.0"],
        cwd=tmp_path,
        env={**own, **WHOLE, "ALLOW_UNAUTHENTICATED": "true"},
        stderr=subprocess.PIPE,
        text=True,
    )
    with ending(process):
        _, _, address, *_ = process.stderr.readline().split()
        assert address.startswith("http://localhost:")
        port = address.rpartition(":")[2]
        assert int(port) > 0
        assert run("anthropic_proxy", "health", directory=tmp_path, settings={"PORT": f'"{port}"'}).returncode == 0
    assert process.returncode == 0


@pytest.mark.parametrize("words", [["--help"], ["doctor", "--help"], ["completion", "bash"]])
def test_output_without_a_reader_is_no_error(words: list[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as of `head`, which has ended
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "anthropic_proxy", *words],
            cwd=tmp_path,
            env=environment_of(tmp_path),
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=WAIT_SECONDS,
            check=False,
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_an_error_has_the_colors_of_its_sign_and_of_the_command_to_type(closed_port: str, tmp_path: Path) -> None:
    ended = run("anthropic_proxy", "health", directory=tmp_path, settings={"PORT": closed_port, "FORCE_COLOR": "1"})
    assert ended.stderr == (
        f"\x1b[1;31m✕\x1b[0m No proxy responds on port {closed_port} (PORT) of this machine. Start it:  "
        "\x1b[36manthropic-proxy serve\x1b[0m\n"
    )


def test_nobody_at_the_port_is_no_health(tmp_path: Path) -> None:
    ended = run("anthropic_proxy", "health", directory=tmp_path, settings={"PORT": reserve_closed_port()})
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


def test_a_running_proxy_is_named_with_its_version_and_start(tmp_path: Path) -> None:
    with running_proxy(tmp_path, {"OPENAI_API_KEY": "sk-0123456789abcdef"}) as proxy:
        port = {"PORT": proxy.url.rpartition(":")[2]}
        ended = run("anthropic_proxy", "health", directory=tmp_path, settings=port)
        alive = run("anthropic_proxy", "health", "--alive", directory=tmp_path, settings=port)
        listed = json.loads(run("anthropic_proxy", "health", "--json", directory=tmp_path, settings=port).stdout)
    assert (listed["ready_providers"], listed["ledger"], listed["problems"]) == (["openai"], "off", [])
    assert (ended.returncode, ended.stderr) == (0, "")
    found = [re.sub(r"\d+ \w+ \d{4}, \d\d:\d\d:\d\d \S+ \(\d+ s ago\)", "TIME", one.stdout) for one in (ended, alive)]
    described = (
        f"anthropic-proxy {__version__} responds at {proxy.url}, started TIME.\n"
        f"    settings  {listed['settings_folder']}\n    ledger    off\n"
    )
    assert found == [f"{described}    ready     1 provider: openai\n", described]


@pytest.mark.parametrize(
    "keys",
    [{"PROXY_API_KEY": "pk-0123456789abcdef"}, {"VIRTUAL_KEYS": "true", "ADMIN_API_KEY": "admin-0123456789abcdef"}],
    ids=["of the proxy", "of an administrator"],
)
def test_health_asks_a_proxy_with_keys_for_its_state(keys: dict[str, str], tmp_path: Path) -> None:
    settings = {"OPENAI_API_KEY": "sk-0123456789abcdef", "DATABASE_URL": f"sqlite:///{tmp_path / 'l.sqlite3'}", **keys}
    with running_proxy(tmp_path, settings) as proxy:
        settings["PORT"] = proxy.url.rpartition(":")[2]
        listed = json.loads(run("anthropic_proxy", "health", "--json", directory=tmp_path, settings=settings).stdout)
    assert (listed["ready_providers"], listed["problems"]) == (["openai"], [])


def test_several_workers_are_announced_once(tmp_path: Path) -> None:
    command = ("-m", "anthropic_proxy", "serve", "--port", "{port}", "--workers", "3")
    with running_proxy(tmp_path, WHOLE, command) as proxy:
        wait_for(lambda: "3 workers, which share observations" in proxy.log)
        assert proxy.log.count("Use it:") == 1
        assert proxy.log.count("3 workers, which share observations") == 1
        assert proxy.stop() == 0
        assert proxy.log.count("Use it:") == 1


def test_help_names_every_command_examples_and_the_file_of_settings(tmp_path: Path) -> None:
    help_text = run("anthropic_proxy", "--help", directory=tmp_path).stdout
    for part in (
        "serve ",
        "health ",
        "anthropic-proxy serve --port 8083",
        "config show --all",
        "python3 scripts/serve.py",
    ):
        assert part in help_text


@pytest.mark.parametrize(("port", "other"), [(80, 1024), (1023, 1024), (8082, 8083), (65535, 8082)])
def test_the_error_for_an_occupied_or_forbidden_port_suggests_another(port: int, other: int) -> None:
    with ExitStack() as stack:
        with suppress(ConfigurationError):  # the port is occupied or forbidden already
            stack.enter_context(open_listener("127.0.0.1", port))
        with pytest.raises(ConfigurationError) as caught:
            open_listener("127.0.0.1", port)
    remedy = f"Use another:  PORT={other}, or the option --port {other}"
    assert caught.value.message in {
        f"Port {port} on 127.0.0.1 cannot be used: {reason}. {remedy}"
        for reason in ("another program uses the port", "permission denied")
    }


def test_the_error_for_an_address_of_another_machine_suggests_an_address() -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_listener("192.0.2.1", 0)
    assert caught.value.message == (
        "The address 192.0.2.1 cannot be used: this machine has no such address. "
        "Use another:  HOST=127.0.0.1, or the option --host 127.0.0.1"
    )


@pytest.mark.parametrize("name", [name for name in commands if not name.startswith("-")])
def test_the_help_of_each_command_ends_with_its_own_examples(name: str, tmp_path: Path) -> None:
    ended = run("anthropic_proxy", name, "--help", directory=tmp_path)
    _, _, examples = ended.stdout.partition("Examples:")
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    assert lines
    words = f"anthropic-proxy( {name}| --install-completion)"
    assert all(re.search(words, line) for line in lines)


def test_a_group_of_commands_alone_shows_its_help(tmp_path: Path) -> None:
    alone, asked = (run("anthropic_proxy", "keys", *more, directory=tmp_path) for more in ((), ("--help",)))
    assert (alone.returncode, alone.stdout) == (0, asked.stdout)


def test_the_help_names_the_program_as_its_user_can_start_it_and_divides_no_example(tmp_path: Path) -> None:
    """The program is not in PATH."""
    script = Path(sys.executable).parent / "anthropic-proxy"
    own = {"PATH": "/usr/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    own["COLUMNS"] = str(len(str(script)) + 12)  # less than the last line
    command = [script, "env", "--help"]
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    assert " ".join(done.stdout.split()).startswith(f"Usage: {script} env [OPTIONS] Print")
    assert done.stdout.splitlines()[-3:] == [
        f"  {script} env",
        f"  {script} env --shell fish",
        f'  eval "$({script} env)"',
    ]


def test_python_m_imports_no_modules_of_the_current_directory(tmp_path: Path) -> None:
    for name in ("msgspec", "cyclopts", "dotenv", "httptools"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')\n")
    own = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PORT": reserve_closed_port()}
    command = [sys.executable, "-m", "anthropic_proxy", "usage"]
    done = subprocess.run(
        command, cwd=tmp_path, env=own, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_the_same_on_all_surfaces_before_a_request_is_stored(tmp_path: Path) -> None:
    with mounted_disk(tmp_path) as disk:
        file = disk / "ledger.sqlite3"
        settings = {"DATABASE_URL": f"sqlite:///{file}"}
        with running_proxy(tmp_path, settings) as proxy, proxy.client() as client:
            settings["PORT"] = proxy.url.rpartition(":")[2]

            def show(*words: str) -> dict[str, Any]:
                shown: dict[str, Any] = json.loads(run_command(*words, directory=tmp_path, settings=settings).stdout)
                return shown

            def look(state: str) -> dict[str, object]:
                wait_for(lambda: client.get("/readyz").json()["checks"]["ledger"], lambda found: found == state)
                page = client.get("/dashboard", headers={"accept": "text/html"}).text
                return {
                    "/health": client.get("/health").json()["ledger"]["condition"],
                    "health": show("health", "--json")["ledger"],
                    "metric": re.findall(r'anthropic_proxy_conditions\{check="(.*)"\} 1', client.get("/metrics").text),
                    "doctor": show("doctor", "--yes", "--json")["problems"],
                    "page": text in html.unescape(page),
                }

            text = (
                f"The ledger cannot store requests: disk full ({file}: no space left on device). Free space on its "
                "disk, or set LEDGER_MAX_MB to a smaller number."
            )
            large = fill_disk(disk)
            full = look("disk full")
            large.unlink()
            free = look("ok")
            log = proxy.log
    states = {"/health": "disk full", "health": "disk full", "metric": ["ledger"]}
    assert full == {**states, "doctor": [text], "page": True}
    assert free == {"/health": "ok", "health": "ok", "metric": [], "doctor": [], "page": False}
    assert [line for line in log.splitlines() if "ledger" in line] == [
        f"! {text}",
        "! The ledger stores requests again. 0 were dropped since the start.",
    ]
