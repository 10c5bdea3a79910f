"""The command line: options, addresses, and errors at the start."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from anthropic_proxy import __version__
from anthropic_proxy.cli import commands
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.server.listener import format_url, open_listener
from tests.support.command_line import run_command
from tests.support.paths import ROOT
from tests.support.server_process import ending, environment_of, free_port, reserve_closed_port, running_proxy
from tests.support.waiting import WAIT_SECONDS

COMMANDS = f"The commands are: {', '.join(name for name in commands if not name.startswith('-'))}."
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


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--port", "99999", "from 0 to 65535"),
        ("--port", "-1", "from 0 to 65535"),
        ("--workers", "0", "from 1 to 1000"),
        ("--workers", "-3", "from 1 to 1000"),
    ],
)
def test_the_error_for_a_wrong_number_states_the_allowed_range(
    option: str, value: str, allowed: str, tmp_path: Path
) -> None:
    ended = run("anthropic_proxy", "serve", option, value, directory=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr == f'✕ {option} is "{value}". Use a whole number {allowed}.\n'


@pytest.mark.parametrize("module", ["server:app", "app.main:app"])
def test_a_wrong_setting_under_another_server_is_one_line(module: str, tmp_path: Path) -> None:
    words = ("uvicorn", module, "--port", str(free_port()))
    ended = run(*words, directory=tmp_path, settings={"PREFERRED_PROVIDER": "opnai"})
    assert ended.returncode not in (0, None)
    (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("INFO:")]
    assert line.startswith('✕ PREFERRED_PROVIDER is "opnai". Use openai, ')


def test_where_letters_are_few_the_sign_is_made_of_them(tmp_path: Path) -> None:
    settings = {"PREFERRED_PROVIDER": "opnai", "PYTHONIOENCODING": "ascii"}
    assert run("anthropic_proxy", directory=tmp_path, settings=settings).stderr.startswith("xx PREFERRED_PROVIDER")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:8082"),
        ("::1", "http://[::1]:8082"),
        ("0.0.0.0", "http://localhost:8082"),
        ("::", "http://localhost:8082"),
        ("proxy.example", "http://proxy.example:8082"),
    ],
)
def test_the_address_is_one_to_type(host: str, address: str) -> None:
    assert format_url(host, 8082) == address


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


def test_nobody_at_the_port_is_no_health(tmp_path: Path) -> None:
    ended = run("anthropic_proxy", "health", directory=tmp_path, settings={"PORT": str(free_port())})
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


def test_a_running_proxy_is_named_with_its_version_and_start(tmp_path: Path) -> None:
    with running_proxy(tmp_path, {}) as proxy:
        ended = run("anthropic_proxy", "health", directory=tmp_path, settings={"PORT": proxy.url.rpartition(":")[2]})
    assert (ended.returncode, ended.stderr) == (0, "")
    start = f"anthropic-proxy {__version__} responds at {proxy.url}, started "
    assert re.fullmatch(rf"{re.escape(start)}\d{{4}}-\d\d-\d\d \d\d:\d\d \S+\.\n", ended.stdout), ended.stdout


def test_the_version_is_a_command_too(tmp_path: Path) -> None:
    texts = [run("anthropic_proxy", word, directory=tmp_path, settings={}).stdout for word in ("version", "--version")]
    assert texts == [f"anthropic-proxy {__version__}\n"] * 2


def test_several_workers_are_announced_once(tmp_path: Path) -> None:
    command = ("-m", "anthropic_proxy", "serve", "--port", "{port}", "--workers", "3")
    with running_proxy(tmp_path, WHOLE, command) as proxy:
        assert proxy.log.count("Use it:") == 1
        assert proxy.log.count("3 workers, which share observations") == 1
        assert proxy.stop() == 0
        assert proxy.log.count("Use it:") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["zebra"], f'There is no command "zebra". {COMMANDS} More:  anthropic-proxy --help'),
        (["sreve"], f'There is no command "sreve". {COMMANDS} Did you mean:  anthropic-proxy serve'),
        (["Helth"], f'There is no command "Helth". {COMMANDS} Did you mean:  anthropic-proxy health'),
        (
            ["config", "sohw"],
            'There is no command "sohw" of config. The commands are: show, check. '
            "Did you mean:  anthropic-proxy config show",
        ),
        (["serve", "zebra"], 'serve does not accept "zebra". Arguments and options:  anthropic-proxy serve --help'),
        (["health", "8199"], 'health does not accept "8199". Arguments and options:  anthropic-proxy health --help'),
        (["--port", "8082", "serve"], '"serve" is a command. Write it before all options:  anthropic-proxy serve …'),
        (["explain", "--bdy", "request.json"], "explain has no option --bdy. Did you mean:  --body"),
        (["explain", "request.json", "--bdy"], "explain has no option --bdy. Did you mean:  --body"),
        (["lint-stream", "--jsn", "x"], "lint-stream has no option --jsn. Did you mean:  --json"),
        (["import", "--zebra"], "import has no option --zebra. All options:  anthropic-proxy import --help"),
        (
            ["explain"],
            "FILE is missing. Use the name of a file, the id of a stored request, or --last. "
            "More:  anthropic-proxy explain --help",
        ),
        (
            ["lint-stream", "--json"],
            "FILE is missing. Use the name of a file, such as:  anthropic-proxy lint-stream reply.sse",
        ),
        (["--port", "abc"], '--port is "abc". Use a whole number.'),
        (["--prot", "1"], "serve has no option --prot. Did you mean:  --port"),
        (["ask", "--paint=1"], "ask has no option --paint. All options:  anthropic-proxy ask --help"),
        (["env", "--shell", "fsh"], '--shell is "fsh". Use sh, fish, powershell or cmd. Did you mean:  --shell fish'),
        (
            ["env", "--shell"],
            "--shell has no value. Use sh, fish, powershell or cmd. More:  anthropic-proxy env --help",
        ),
        (["serve", "--reload=maybe"], '--reload is "maybe". Use true or false.'),
        (
            ["completion", "bsh"],
            'SHELL is "bsh". Use bash, zsh, fish or powershell. Did you mean:  anthropic-proxy completion bash',
        ),
        (
            ["completion"],
            "SHELL is missing. Use bash, zsh, fish or powershell. More:  anthropic-proxy completion --help",
        ),
    ],
)
def test_a_mistyped_command_line_is_one_line_with_the_remedy(words: list[str], message: str, tmp_path: Path) -> None:
    ended = run("anthropic_proxy", *words, directory=tmp_path)
    assert (ended.returncode, ended.stderr) == (2, f"✕ {message}\n")


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
    with pytest.raises(ConfigurationError) as caught:
        open_listener("192.0.2.1", port)  # not an address of this machine
    assert caught.value.message == (
        f"Port {port} on 192.0.2.1 cannot be used: this machine has no such address. "
        f"Use another:  PORT={other}, or the option --port {other}"
    )


@pytest.mark.parametrize("name", [name for name in commands if not name.startswith("-")])
def test_the_help_of_each_command_ends_with_its_own_examples(name: str, tmp_path: Path) -> None:
    ended = run("anthropic_proxy", name, "--help", directory=tmp_path)
    _, _, examples = ended.stdout.partition("Examples:")
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    assert lines
    assert all(line.startswith(f"• anthropic-proxy {name}") for line in lines)


def test_python_m_imports_no_modules_of_the_current_directory(tmp_path: Path) -> None:
    for name in ("msgspec", "cyclopts", "dotenv", "httptools"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')\n")
    own = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PORT": reserve_closed_port()}
    command = [sys.executable, "-m", "anthropic_proxy", "usage"]
    done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
