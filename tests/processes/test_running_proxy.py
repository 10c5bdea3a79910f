"""Commands that describe: they describe the proxy that runs, wherever they are started."""

import json
import shutil
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from html import unescape
from pathlib import Path

import pytest

from tests.support.command_line import run_command
from tests.support.fakes.ollama import new_ollama
from tests.support.fakes.openai_chat.server import KEY
from tests.support.fakes.server import Running, serving
from tests.support.paths import ROOT
from tests.support.platform_marks import HAS_SIGHUP, HIDDEN_POSIX, NO_SIGHUP
from tests.support.process_checks import serve
from tests.support.server_process import Proxy, reserve_closed_port, running_proxy
from tests.support.waiting import wait_for

REQUEST = {"model": "claude-sonnet-5-5", "max_tokens": 10, "messages": [{"role": "user", "content": "hello"}]}
ROUTE = """
[[routes]]
name = "short"
when = { input_below = 1000 }
targets = ["openai/gpt-4o"]
"""


def test_commands_in_a_foreign_directory_describe_the_running_proxy(openai: Running, tmp_path: Path) -> None:
    folder, foreign = tmp_path / "proxy", tmp_path / "foreign"
    for each in (folder, foreign):
        each.mkdir()
    (folder / ".env").write_text("SMALL_MODEL=gpt-4o-mini\n")
    (folder / "anthropic-proxy.toml").write_text(ROUTE)
    (foreign / ".env").write_text("BIG_MODEL=o3\nPREFERRED_PROVIDER=demo\n")
    (foreign / "request.json").write_text(json.dumps(REQUEST))
    given = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{openai.url}/v1", "BIG_MODEL": "gpt-5.5"}
    with running_proxy(folder, given) as proxy:
        here = {"PORT": proxy.url.rpartition(":")[2], "HOME": str(folder), "ANTHROPIC_PROXY_CONFIG": ""}

        def describe(*words: str, **more: str) -> tuple[int, str, str]:
            done = run_command(*words, directory=foreign, settings={**here, **more})
            assert KEY not in done.stdout + done.stderr
            return done.returncode, done.stdout, done.stderr

        source = (
            f"  Settings of the running proxy (port {here['PORT']}): ~/.env, ~/anthropic-proxy.toml, "
            "DATABASE_URL, BIG_MODEL, OPENAI_BASE_URL, OPENAI_API_KEY of its environment\n"
        )
        code, output, notices = describe("config", "show", "--json")
        unread = (
            f"  ! {foreign}/.env is not read, because settings files belong in {folder}. "
            "Use  --config .  if you trust it.\n"
        )
        assert (code, sorted(notices.split())) == (0, sorted((source + unread).split()))
        shown = {row["name"]: (row["value"], row["source"]) for row in json.loads(output)["settings"]}
        assert shown["BIG_MODEL"] == ("gpt-5.5", "environment")
        assert shown["SMALL_MODEL"] == ("gpt-4o-mini", f"{folder}/.env line 1")
        assert shown["OPENAI_API_KEY"] == ("…", "environment")
        assert json.loads(output)["files"] == [f"{folder}/.env", f"{folder}/anthropic-proxy.toml"]

        code, output, _ = describe("models", "--json")
        assert (code, {row["facts"]["model"] for row in json.loads(output)["mapping"]}) == (
            0,
            {"openai/gpt-5.5", "openai/gpt-4o-mini"},
        )
        assert "OPENAI_API_KEY is set in the environment of the running proxy only." in output
        code, output, _ = describe("models", "openai", "--json", OPENAI_API_KEY=KEY)
        assert (code, json.loads(output)["problem"]) == (0, "")

        code, output, _ = describe("explain", "request.json", "--json")
        assert (code, json.loads(output)["target"]) == (0, "openai/gpt-4o")
        code, output, _ = describe("routes", "explain", "request.json", "--json")
        assert (code, json.loads(output)["route"]) == (0, "short")
        code, output, _ = describe("doctor", "--dry-run", "--json")
        assert (code, sorted(json.loads(output)["models"])) == (0, ["openai/gpt-4o-mini", "openai/gpt-5.5"])
        assert describe("config", "check", "--json")[0] == 0
        (named,) = (folder / ".local/share/anthropic-proxy/servers").rglob("*.json")
        assert KEY not in named.read_text()
        assert named.stat().st_mode & 0o777 == 0o600
        if not (HIDDEN_POSIX or sys.platform == "win32"):  # the rights of a file are not in its mode there
            named.chmod(0o666)  # another user could have written it
            assert "gpt-5.5" not in describe("config", "show")[1]
        named.chmod(0o600)

        (tmp_path / "own").mkdir()
        (tmp_path / "own/.env").write_text("BIG_MODEL=o1\n")
        _, output, notices = describe("config", "show", "--config", str(tmp_path / "own"))
        assert "o1" in output
        assert "running proxy" not in notices
    assert not list((folder / ".local/share/anthropic-proxy/servers").rglob("*.json"))
    assert "running proxy" not in describe("config", "show")[2]


@pytest.mark.skipif(HIDDEN_POSIX or sys.platform == "win32", reason="platform: no folder in memory")
def test_a_server_whose_data_folder_cannot_be_written_says_so_and_is_no_stranger(
    openai: Running, tmp_path: Path
) -> None:
    (tmp_path / ".local/share").mkdir(parents=True)
    (tmp_path / ".local/share/anthropic-proxy").write_text("")  # as on a read-only disk, no folder can be made
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={KEY}\nOPENAI_BASE_URL={openai.url}/v1\nBIG_MODEL=gpt-4o\n")
    warning = "! The data folder ~/.local/share/anthropic-proxy cannot be written: not a directory. "
    with running_proxy(tmp_path, {"HOME": str(tmp_path)}) as proxy:
        settings = {"HOME": str(tmp_path), "PORT": proxy.url.rpartition(":")[2]}
        wait_for(lambda: f"{warning}Set XDG_DATA_HOME to a folder that can be written.\n" in proxy.log)
        ended = run_command("health", directory=tmp_path, settings=settings)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert f"    settings  {tmp_path}\n" in ended.stdout.replace("~", str(tmp_path))
        (facts,) = run_command("ask", "hello", directory=tmp_path, settings=settings).stderr.splitlines()
        assert facts.startswith("  claude-sonnet-5-5 → openai/gpt-4o  ")
    ended = run_command("health", directory=tmp_path, settings=settings)
    assert ended.returncode == 2


HIDDEN = {
    "DATABASE_URL": "postgresql://proxy:password-of-the-ledger-1@127.0.0.1:{port}/ledger",
    "REDIS_URL": "redis://:password-of-redis-2@127.0.0.1:{port}/0",
    "GOOGLE_APPLICATION_CREDENTIALS": '{{"type": "service_account", "private_key": "private-key-3"}}',
}
"""Settings whose names are not those of keys, and whose values have a credential. No server is at `port`."""
CREDENTIALS = ("password-of-the-ledger-1", "password-of-redis-2", "private-key-3", KEY)
TABLE = """
[providers.own]
base_url = "{url}/v1"
api_key = {{ env = "OWN_SERVER" }}
models = ["gpt-4.1", "gpt-4o"]

[[routes]]
name = "balanced"
when = {{ model = "balanced" }}
targets = ["own/gpt-4.1", "own/gpt-4o"]
balance = "latency"
"""


def test_a_setting_with_a_credential_of_the_server_only_is_never_replaced_by_its_default(
    openai: Running, tmp_path: Path
) -> None:
    port = reserve_closed_port()
    hidden = {name: text.format(port=port) for name, text in HIDDEN.items()}
    (tmp_path / "anthropic-proxy.toml").write_text(TABLE.format(url=openai.url))
    with running_proxy(tmp_path, {**hidden, "OWN_SERVER": KEY, "PREFERRED_PROVIDER": "own"}) as proxy:
        own = {"PORT": proxy.url.rpartition(":")[2], "HOME": str(tmp_path), "ANTHROPIC_PROXY_CONFIG": ""}

        def run(*words: str, **more: str) -> tuple[int, list[str]]:
            done = run_command(*words, directory=tmp_path, settings={**own, **more})
            assert not [secret for secret in CREDENTIALS if secret in done.stdout + done.stderr]
            return done.returncode, [line for line in done.stderr.splitlines() if line.startswith("✕")]

        (named,) = (tmp_path / ".local/share/anthropic-proxy/servers").rglob("*.json")
        assert not [secret for secret in CREDENTIALS if secret in named.read_text()]
        (tmp_path / "request.json").write_text(json.dumps(REQUEST))
        (tmp_path / "balanced.json").write_text(json.dumps({**REQUEST, "model": "balanced"}))
        errors = {
            name: f"✕ {name} is set in the environment of the running proxy (port {own['PORT']}) only. Commands do not "
            "know its value, because it contains a credential. Set it in the environment of this command too."
            for name in hidden
        }
        for words in (("usage",), ("keys", "list"), ("logs", "--no-follow"), ("db", "check"), ("explain", "--last")):
            assert run(*words) == (2, [errors["DATABASE_URL"]]), words
        for words in (
            ("config", "show"),
            ("config", "check"),
            ("doctor", "--dry-run"),
            ("explain", "request.json"),
            ("routes", "explain", "request.json"),
            ("routes", "list"),
        ):
            assert run(*words) == (0, []), words
        google = "GOOGLE_APPLICATION_CREDENTIALS"
        for words in (("models",), ("doctor", "--yes"), ("config", "check", "--keys")):  # they call providers
            assert run(*words) == (2, [errors[google]]), words
        assert run("models", OWN_SERVER=KEY, **{google: hidden[google]}) == (0, [])
        assert run("config", "check", "--keys", OWN_SERVER=KEY, **{google: hidden[google]})[0] == 1
        done = run_command("config", "show", "--json", directory=tmp_path, settings=own)
        shown = {row["name"]: (row["value"], row["source"]) for row in json.loads(done.stdout)["settings"]}
        assert {shown[name] for name in hidden} == {("…", "set in the server's environment only")}
        assert run("routes", "explain", "balanced.json") == (2, [errors["REDIS_URL"]])
        code, (error,) = run("usage", **hidden)
        assert (code, error.partition(": ")[0]) == (2, "✕ The ledger PostgreSQL 127.0.0.1/ledger cannot be read")
        for words in (("health",), ("env",), ("ask", "hello"), ("run", "true")):  # they only send requests to the proxy
            assert run(*words) == (0, []), words

        def describe_own(**more: str) -> str:
            done = run_command("models", "own", "--json", directory=tmp_path, settings={**own, **hidden, **more})
            problem = json.loads(done.stdout)["problem"]
            assert isinstance(problem, str)
            return problem

        assert "OWN_SERVER is set in the environment of the running proxy only." in describe_own()
        assert describe_own(OWN_SERVER=KEY) == ""


SERVE = ("-m", "anthropic_proxy", "serve")


def show_settings(proxy: Proxy, folder: Path, **environment: str) -> tuple[dict[str, str], list[str]]:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    here = {"PORT": proxy.url.rpartition(":")[2], "HOME": str(folder), "ANTHROPIC_PROXY_CONFIG": "", **environment}
    done = run_command("config", "show", "--json", directory=elsewhere, settings=here)
    assert done.returncode == 0, done.stderr
    return {row["name"]: row["value"] for row in json.loads(done.stdout)["settings"]}, done.stderr.splitlines()


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "uvicorn", "server:app", "--port", "{port}"),
        ("-m", "uvicorn", "app.main:app", "--port={port}", "--workers", "2", "--timeout-worker-healthcheck", "60"),
        (*SERVE, "--workers", "2"),
        (*SERVE, "--reload"),
    ],
    ids=["uvicorn", "uvicorn with workers", "workers", "reload of code"],
)
def test_every_way_to_start_the_server_lets_commands_find_its_settings(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / ".env").write_text("SMALL_MODEL=gpt-4o-mini\n")
    (tmp_path / ".env").write_text("SMALL_MODEL=o3\n")
    settings = {"OPENAI_API_KEY": KEY, "BIG_MODEL": "gpt-5.5", "ANTHROPIC_PROXY_CONFIG": str(own)}
    with running_proxy(tmp_path, settings, command) as proxy:
        shown, notices = wait_for(lambda: show_settings(proxy, tmp_path), lambda found: "BIG_MODEL" in found[0])
        assert (shown["BIG_MODEL"], shown["SMALL_MODEL"]) == ("gpt-5.5", "gpt-4o-mini")
        assert notices == [
            f"  Settings of the running proxy (port {proxy.url.rpartition(':')[2]}): ~/own/.env, BIG_MODEL, "
            "DATABASE_URL, OPENAI_API_KEY of its environment"
        ]
    assert proxy.log.count("! ~/.env is not read") == 1
    assert not list((tmp_path / ".local/share/anthropic-proxy/servers").rglob("*.json"))


def test_invalid_settings_of_the_command_do_not_matter_if_it_describes_a_running_proxy(tmp_path: Path) -> None:
    with running_proxy(tmp_path, {"OPENAI_API_KEY": KEY, "BIG_MODEL": "gpt-5.5"}) as proxy:
        shown, _ = show_settings(
            proxy, tmp_path, FIDELITY="no", OPENAI_BASE_URL="x", BIG_MODEL="a b", PROXY_API_KEY="ü"
        )
        assert shown["BIG_MODEL"] == "gpt-5.5"
        assert "FIDELITY" not in shown
        done = run_command("usage", directory=tmp_path, settings={"PORT": "x", "ANTHROPIC_PROXY_CONFIG": ""})
        assert (done.returncode, done.stderr) == (
            2,
            '✕ PORT is "x". Use a whole number from 1 to 65535. Set in the environment.\n',
        )


@pytest.mark.skipif(not HAS_SIGHUP, reason=NO_SIGHUP)
@pytest.mark.parametrize(("workers", "names_folder"), [("1", False), ("2", False), ("1", True)])
def test_commands_say_that_the_proxy_has_not_read_changed_files(
    workers: str, names_folder: bool, tmp_path: Path
) -> None:
    env_file, configuration = tmp_path / ".env", tmp_path / "anthropic-proxy.toml"
    named = {"ANTHROPIC_PROXY_CONFIG": str(tmp_path) if names_folder else ""}
    env_file.write_text("BIG_MODEL=gpt-5.5\n")
    with running_proxy(tmp_path, {"OPENAI_API_KEY": KEY}, (*SERVE, "--workers", workers)) as proxy:
        port = proxy.url.rpartition(":")[2]

        def find_notices() -> list[str]:
            return [line for line in show_settings(proxy, tmp_path, **named)[1] if line.startswith("  !")]

        assert find_notices() == []
        env_file.write_text("BIG_MODEL=gpt-5.5\n")  # the same content
        assert find_notices() == []
        env_file.write_text("BIG_MODEL=o3\nLEDGER_DAYS=7\n")
        changed = (
            "changed since the proxy's start or last reload. This command shows the new settings, and the proxy (port "
            f"{port}) uses the earlier ones. To apply them:  kill -HUP {proxy.process.pid}"
        )
        assert find_notices() == [f"  ! ~/.env {changed}"]
        configuration.write_text(ROUTE)
        assert find_notices() == [f"  ! ~/.env and ~/anthropic-proxy.toml {changed}"]
        proxy.process.send_signal(signal.SIGHUP)
        fixed = (
            f"  ! LEDGER_DAYS changed after the start of the proxy (port {port}), which applies the change at its next "
            "start. This command applies it now."
        )
        assert wait_for(find_notices, lambda notices: changed not in str(notices)) == [fixed]
        configuration.unlink()
        assert find_notices() == [f"  ! ~/anthropic-proxy.toml {changed}", fixed]
        env_file.write_text("FIDELITY=x\n")
        proxy.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "The current settings stay active" in proxy.log)
        done = run_command("usage", directory=tmp_path, settings={"PORT": port, **named})
        assert (done.returncode, done.stderr) == (
            2,
            f'✕ FIDELITY is "x". Use best-effort or strict. Set in {".env" if names_folder else "~/.env"}, line 1.\n',
        )


@pytest.mark.skipif(not HAS_SIGHUP, reason=NO_SIGHUP)
@pytest.mark.parametrize("workers", [1, 2])
def test_init_lets_the_running_proxy_read_the_new_settings(workers: int, openai: Running, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"PREFERRED_PROVIDER=groq\nOPENAI_BASE_URL={openai.url}/v1\n")
    words = ("init", "--provider", "openai", "--key-from-env", "OWN_KEY", "--yes", "--big-model", "gpt-5.5")
    with running_proxy(tmp_path, {}, command=serve(workers)) as proxy:
        own = {"PORT": proxy.url.rpartition(":")[2], "OWN_KEY": KEY}
        ended = run_command(*words, directory=tmp_path, settings=own)
        assert ended.returncode == 0, ended.stderr
        assert f"  ✓ The proxy at {proxy.url} uses the new settings.\n" in ended.stderr
        shown = json.loads(run_command("models", "--json", directory=tmp_path, settings=own).stdout)
        assert "openai/gpt-5.5" in {row["facts"]["model"] for row in shown["mapping"]}

        shell = {"PORT": own["PORT"], "XAI_API_KEY": "xai-0123456789abcdef"}
        words = ("init", "--provider", "xai", "--skip-test", "--yes", "--small-model", "grok-3")
        ended = run_command(*words, directory=tmp_path, settings=shell)
        note = (
            "  ! XAI_API_KEY stays in the environment. Set it in each shell that starts the proxy, or write the key to "
            "~/.env.\n"
        )
        assert (ended.returncode, note in ended.stderr) == (0, True), ended.stderr


def test_only_the_user_of_other_settings_is_told_that_those_of_the_proxy_are_used(tmp_path: Path) -> None:
    with running_proxy(tmp_path, {"OPENAI_API_KEY": KEY}) as proxy:
        here = {"PORT": proxy.url.rpartition(":")[2], "HOME": str(tmp_path), "ANTHROPIC_PROXY_CONFIG": ""}
        assert run_command("health", directory=tmp_path, settings=here).stderr == ""
        for words, more in ((("health", "-v"), {}), (("health",), {"BIG_MODEL": "openai/gpt-5.5"})):
            notices = run_command(*words, directory=tmp_path, settings={**here, **more}).stderr
            assert notices.startswith(f"  Settings of the running proxy (port {here['PORT']}): ")


def test_commands_find_the_proxies_that_serve_started_on_other_ports(closed_port: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"PORT={closed_port}\n")

    def run(*words: str, **more: str) -> tuple[int, str, str]:
        done = run_command(*words, directory=tmp_path, settings={"PORT": "", **more})
        return done.returncode, done.stdout, done.stderr

    with running_proxy(tmp_path, {}) as proxy:
        _, variables, notices = run("env", "--json")
        assert json.loads(variables)["ANTHROPIC_BASE_URL"] == proxy.url, notices
        assert run("health")[0] == 0
        assert run("health", PORT=closed_port) == (
            2,
            "",
            f"✕ No proxy responds on port {closed_port} (PORT) of this machine. Start it:  anthropic-proxy serve\n",
        )
        shown = json.loads(run("config", "show", "--json")[1])["settings"]
        assert [(row["value"], row["source"]) for row in shown if row["name"] == "PORT"] == [
            (closed_port, ".env line 1")
        ]
        with running_proxy(tmp_path, {}) as other:
            first, second = sorted((proxy, other), key=lambda one: int(one.url.rpartition(":")[2]))
            ports = [one.url.rpartition(":")[2] for one in (first, second)]
            several = (
                f"  Proxies with these settings files run on ports {ports[0]} and {ports[1]}. This command uses port "
                f"{ports[0]}. To use another one, set PORT in the environment.\n"
            )
            _, variables, notices = run("env", "--json")
            assert (json.loads(variables)["ANTHROPIC_BASE_URL"], notices) == (first.url, several)
            status, output, notices = run("health")
            assert (status, first.url in output, notices) == (0, True, several)
            _, variables, notices = run("env", "--json", PORT=ports[1])
            assert (json.loads(variables)["ANTHROPIC_BASE_URL"], notices) == (second.url, "")


@pytest.mark.skipif(not HAS_SIGHUP, reason=NO_SIGHUP)
def test_each_proxy_with_these_files_reads_the_new_settings(openai: Running, tmp_path: Path) -> None:
    with running_proxy(tmp_path, {}) as first, running_proxy(tmp_path, {}) as second:
        (tmp_path / ".env").write_text(f"PORT={second.url.rpartition(':')[2]}\nOPENAI_BASE_URL={openai.url}/v1\n")
        words = ("init", "--provider", "openai", "--key-from-env", "OWN_KEY", "--yes", "--big-model", "gpt-5.5")
        ended = run_command(*words, directory=tmp_path, settings={"PORT": "", "OWN_KEY": KEY})
        assert ended.returncode == 0, ended.stderr
        for proxy in (first, second):
            assert f"  ✓ The proxy at {proxy.url} uses the new settings" in ended.stderr
            wait_for(lambda proxy=proxy: "Settings reloaded: " in proxy.log)


@pytest.mark.skipif(sys.platform == "darwin", reason="127.0.0.1 is the only loopback address of macOS")
def test_commands_find_a_proxy_on_another_address(tmp_path: Path) -> None:
    host = "127.0.0.2"
    with running_proxy(tmp_path, {}, ("-m", "anthropic_proxy", "serve", "--host", host), host=host) as proxy:
        for port in ("", proxy.url.rpartition(":")[2]):
            health = run_command("health", directory=tmp_path, settings={"PORT": port})
            assert (health.returncode, health.stderr) == (0, "")
            assert proxy.url in health.stdout
            variables = run_command("env", "--json", directory=tmp_path, settings={"PORT": port}).stdout
            assert json.loads(variables)["ANTHROPIC_BASE_URL"] == proxy.url


def test_a_named_folder_decides_which_proxy_is_used(openai: Running, tmp_path: Path) -> None:
    private, work = tmp_path / "private", tmp_path / "work"
    for folder, model in ((private, "gpt-4.1"), (work, "gpt-4o")):
        folder.mkdir()
        text = f"OPENAI_API_KEY={KEY}\nOPENAI_BASE_URL={openai.url}/v1\nBIG_MODEL={model}\n"
        (folder / ".env").write_text(text)
    data = {"HOME": str(tmp_path)}
    with running_proxy(private, data) as other:
        (work / ".env").open("a").write(f"PORT={other.url.rpartition(':')[2]}\n")

        def run(*words: str, **more: str) -> tuple[int, str, str]:
            done = run_command(*words, "--config", str(work), directory=tmp_path, settings={**data, "PORT": "", **more})
            return done.returncode, done.stdout, done.stderr

        reason = (
            f"The proxy at {other.url} is another one: it uses other settings files, in ~/private. "
            f"To use it, set  ANTHROPIC_BASE_URL={other.url}"
        )
        started, facts = run("ask", "hello")[2].splitlines()
        assert started == f"  ! This command starts a proxy of its own. {reason}"
        assert facts.startswith("  claude-sonnet-5-5 → openai/gpt-4o  ")
        assert run("env") == (2, "", f"✕ {reason}\n")
        status, output, notices = run("health")
        assert (status, notices) == (0, f"  ! {reason}\n")
        assert "ready" not in output  # those of the other proxy are not known
        with running_proxy(work, data) as own:
            assert json.loads(run("env", "--json")[1])["ANTHROPIC_BASE_URL"] == own.url
            (facts,) = run("ask", "hello")[2].splitlines()
            assert facts.startswith("  claude-sonnet-5-5 → openai/gpt-4o  ")
            status, output, notices = run("health")
            assert (status, own.url in output, notices) == (0, True, "")
            (facts,) = run("ask", "hello", ANTHROPIC_BASE_URL=other.url)[2].splitlines()
            assert facts.startswith("  claude-sonnet-5-5 → openai/gpt-4.1  ")


def test_health_names_another_settings_folder(tmp_path: Path) -> None:
    """The proxy has found an Ollama server, which is no chosen provider, and the next port is in use too."""
    own = tmp_path / "own"
    own.mkdir()
    with serving(new_ollama()) as server, running_proxy(tmp_path, {"OLLAMA_API_BASE": server.url}) as proxy:
        here = {"PORT": proxy.url.rpartition(":")[2], "HOME": str(tmp_path)}
        assert run_command("health", directory=tmp_path, settings=here).stderr == ""
        with socket.socket() as taken:
            with suppress(OSError):  # another program listens there
                taken.bind(("127.0.0.1", int(here["PORT"]) + 1))
                taken.listen()
            described, _, port = run_command("health", directory=own, settings=here).stderr.rpartition(" ")
            assert described == (
                f"  ! The proxy at {proxy.url} is another one: it uses settings without a provider, in {tmp_path}. "
                "Start your own beside it:  anthropic-proxy serve --port"
            )
            assert int(port) > int(here["PORT"]) + 1


def test_the_start_calls_no_server_ready_that_does_not_answer(openai: Running, tmp_path: Path) -> None:
    closed = f"http://127.0.0.1:{reserve_closed_port()}"
    (tmp_path / "anthropic-proxy.toml").write_text(f'[providers.box]\nbase_url = "{closed}/v1"\nmodels = ["m"]\n')
    settings = {"OPENAI_BASE_URL": f"{openai.url}/v1", "PREFERRED_PROVIDER": "openai", "OLLAMA_API_BASE": closed}
    for _ in range(5):  # a busy machine names such servers in lines after the summary
        with running_proxy(tmp_path, settings) as proxy:
            wait_for(lambda: "  Use it:" in proxy.log and proxy.log.count("does not answer") == 2)
            lines = proxy.log.splitlines()
        if any(line.startswith("  ! ollama") for line in lines):
            break
    place, setting = "The address is set by", "base_url of [providers.box], anthropic-proxy.toml line 2"
    assert [line for line in lines if "does not answer" in line] == [
        f"  ! ollama does not answer at {closed}. Start this server. {place} OLLAMA_API_BASE, environment.",
        f"  ! box does not answer at {closed}/v1. Start this server. {place} {setting}.",
    ]
    (ready,) = (line for line in lines if line.startswith("  ready: "))
    assert ready.partition("  not set")[0].strip() == f"ready: openai ({openai.url}/v1)"
    done = run_command("config", "check", directory=tmp_path, settings=settings)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [line for line in lines if "does not answer" in line]


def test_an_address_without_its_version_is_reported_before_the_first_request(openai: Running, tmp_path: Path) -> None:
    settings = {"OPENAI_BASE_URL": openai.url, "PREFERRED_PROVIDER": "openai", "OLLAMA_API_BASE": "http://127.0.0.1:9"}
    text = (
        f"openai has no API at {openai.url}. The address is set by OPENAI_BASE_URL, environment. Is /v1 missing? Try "
        f"OPENAI_BASE_URL={openai.url}/v1"
    )
    with running_proxy(tmp_path, settings) as proxy:
        wait_for(lambda: text in " ".join(proxy.log.split()))
        browser = proxy.client(headers={"accept": "text/html"})

        def open_page() -> str:
            page = unescape(browser.get("/").text)
            assert "✓ openai" not in page
            return page

        wait_for(open_page, lambda page: text in page)  # each page asks the server, and does not wait for long


def test_pages_call_no_server_ready_that_stopped(tmp_path: Path) -> None:
    """The server answers at the start of the proxy, and a page tries again."""
    with ExitStack() as running:
        server = running.enter_context(serving(new_ollama()))
        with running_proxy(tmp_path, {"OLLAMA_API_BASE": server.url}) as proxy:
            browser = proxy.client(headers={"accept": "text/html"})
            pages = ["/", "/dashboard", "/dashboard/providers"]
            text = f"ollama does not answer at {server.url}. Start this server. The address is set by OLLAMA_API_BASE"
            before = [text in unescape(browser.get(page).text) for page in pages]
            running.close()
            # each page asks the server, and does not wait for long
            for page in pages:
                wait_for(lambda page=page: unescape(browser.get(page).text), lambda shown: text in shown)
    assert before == [False] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse a connection to a full queue")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_that_does_not_even_refuse_does_not_delay_the_start(tmp_path: Path, workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent, ExitStack() as queue:
        address = silent.getsockname()
        for _ in range(2):  # they fill the queue of connections, so that the next one waits
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        settings = {"OPENAI_BASE_URL": f"http://127.0.0.1:{address[1]}/v1", "PREFERRED_PROVIDER": "openai"}
        with running_proxy(tmp_path, settings, ("-m", "anthropic_proxy", "serve", "--workers", str(workers))) as proxy:
            wait_for(lambda: "does not answer" in proxy.log)
            lines = proxy.log.splitlines()
    ready = next(index for index, line in enumerate(lines) if line.startswith("  Use it:"))
    reported = next(index for index, line in enumerate(lines) if "does not answer" in line)
    assert ready < reported


_CHECK = """
import subprocess, sys
for words in (["config", "check"], ["keys", "create", "ci"]):
    subprocess.run([sys.executable, "-m", "anthropic_proxy", *words])
"""


def test_while_only_a_session_runs_commands_name_its_command(closed_port: str, tmp_path: Path) -> None:
    settings = {"PORT": closed_port, "PREFERRED_PROVIDER": "groq", "DATABASE_URL": f"sqlite:///{tmp_path}/l.sqlite3"}
    ended = run_command("run", sys.executable, "-c", _CHECK, directory=tmp_path, settings=settings)
    assert ended.stderr.splitlines()[0].strip() == (
        "✕ groq has no key: GROQ_API_KEY is not set. Set it in .env, which applies at once, or in the environment and "
        "run anthropic-proxy run again."
    )
    assert ended.stderr.splitlines()[-1].strip() == (
        "! The proxy does not accept it yet. Set VIRTUAL_KEYS=true in .env and run anthropic-proxy run again."
    )


def test_a_chosen_provider_is_used_although_a_proxy_with_other_settings_runs(openai: Running, tmp_path: Path) -> None:
    """A demo of a checkout still runs, at an address of its own, and the program is installed and set up by `init`."""
    installed, demo, home = tmp_path / "site", tmp_path / "demo", tmp_path / "home"
    for folder in (demo, home):
        folder.mkdir()
    # a program outside the checkout has its settings in the folder of the user
    shutil.copytree(ROOT / "anthropic_proxy", installed / "anthropic_proxy")
    (home / ".config/anthropic-proxy").mkdir(parents=True)
    host = "127.0.0.1" if sys.platform == "darwin" else "127.0.0.2"  # macOS has one loopback address
    words = ("-m", "anthropic_proxy", "serve", "--host", host)
    with running_proxy(demo, {"HOME": str(home)}, words, host=host) as proxy:
        port = proxy.url.rpartition(":")[2]
        other = f"is another one: it uses settings without a provider, in {demo}."
        beside = f"Start your own beside it:  anthropic-proxy serve --port {int(port) + 1}"
        own = {"PYTHONPATH": str(installed), "HOME": str(home), "PORT": port, "ANTHROPIC_PROXY_CONFIG": ""}

        def run(*words: str, **more: str) -> tuple[int, str, str]:
            done = run_command(*words, directory=home, settings={**own, **more})
            return done.returncode, done.stdout, done.stderr

        described = f"  The proxy on port {port} {other} This command uses its own settings.\n"
        assert run("config", "show")[2].startswith(described)
        words = ("init", "--provider", "openai", "--yes", "--big-model", "gpt-4.1", "--small-model", "gpt-4.1-mini")
        given = {"OPENAI_BASE_URL": f"{openai.url}/v1", "OPENAI_API_KEY": KEY}
        for _ in range(2):  # the second one writes nothing
            status, _, notices = run(*words, "--key-from-env", "OWN", **given, OWN=KEY)
            assert status == 0
            assert f"  ! The proxy at {proxy.url} {other} Commands start their own.\n" in notices

        notices = run("ask", "hello")[2]
        started, facts = notices.splitlines()
        assert started == f"  ! This command starts a proxy of its own. The proxy at {proxy.url} {other}"
        assert facts.startswith("  claude-sonnet-5-5 → openai/gpt-4.1  ")
        assert run("config", "show")[2].startswith(described)
        assert run("health")[2] == f"  ! The proxy at {proxy.url} {other} {beside}\n"
        assert json.loads(run("health", "--json")[1])["ready_providers"] is None
        assert run("env") == (2, "", f"✕ The proxy at {proxy.url} {other} {beside}\n")
        assert run("logs", "--no-follow")[2] == f"  From saved records. The proxy at {proxy.url} {other} {beside}\n"

        named = {"ANTHROPIC_BASE_URL": proxy.url}
        assert "→ demo/demo  " in run("ask", "hello", **named)[2]
        (source, *_) = run("config", "show", **named)[2].splitlines()
        assert source == f"  Settings of the running proxy (port {port}): DATABASE_URL of its environment"

        # a second proxy of these files is found without its port
        (home / ".config/anthropic-proxy/.env").open("a").write(f"PORT={port}\n")
        own["PORT"] = ""
        with running_proxy(
            home, {"HOME": str(home), "PYTHONPATH": str(installed), "ANTHROPIC_PROXY_CONFIG": ""}
        ) as second:
            assert json.loads(run("env", "--json")[1])["ANTHROPIC_BASE_URL"] == second.url


def test_a_proxy_of_another_home_directory_is_named(openai: Running, tmp_path: Path) -> None:
    folder, home = tmp_path / "proxy", tmp_path / "home"
    for each in (folder, home):
        each.mkdir()
    settings = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{openai.url}/v1", "BIG_MODEL": "gpt-4.1"}
    unknown = "settings that are not known here, for example those of another home directory or of a container"
    with running_proxy(folder, settings) as proxy:
        own = {"PORT": proxy.url.rpartition(":")[2]}

        def ask() -> list[str]:
            return run_command("ask", "hello", directory=home, settings=own).stderr.splitlines()

        used, facts = ask()
        assert used == f"  The proxy at {proxy.url} uses {unknown}."
        assert facts.startswith("  claude-sonnet-5-5 → openai/gpt-4.1  ")
        (home / ".env").write_text(f"OPENAI_API_KEY={KEY}\nOPENAI_BASE_URL={openai.url}/v1\nBIG_MODEL=gpt-4o\n")
        started, facts = ask()
        assert started == (
            f"  ! This command starts a proxy of its own. The proxy at {proxy.url} is another one: it uses {unknown}. "
            f"To use it, set  ANTHROPIC_BASE_URL={proxy.url}"
        )
        assert facts.startswith("  claude-sonnet-5-5 → openai/gpt-4o  ")
