"""The examples of docs/contributing/plugins.md: a plugin of another package, and a program with its own plugins."""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.command_line import run_command
from tests.support.paths import ROOT
from tests.support.process_checks import MESSAGES, ask, reload, serve
from tests.support.server_process import running_proxy
from tests.support.waiting import wait_for

PAGE = (ROOT / "docs/contributing/plugins.md").read_text("utf-8")
PRICES = '[prices."openai/gpt-4.1"]\ninput = {0}\noutput = {0}\n'
MODULE, PROGRAM = re.findall(r"^```python module\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
(PROJECT,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    folder = tmp_path / "site-packages"
    install(folder, MODULE)
    return folder


def install(folder: Path, module: str, version: str = "1.0", name: str = "request-costs") -> None:
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (folder / "request_costs.py").write_text(module)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = tomllib.loads(PROJECT)["project"]["entry-points"]
    lines = [f"[{group}]\n{key} = {value}\n" for group, points in groups.items() for key, value in points.items()]
    (metadata / "entry_points.txt").write_text("".join(lines))


def with_path(settings: Mapping[str, str], folder: Path, **more: str) -> dict[str, str]:
    return {**settings, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, folder))), **more}


def read_costs(log: str) -> list[float]:
    return [float(text) for text in re.findall(r"^gpt-4\.1 \$([\d.]+)$", log, re.MULTILINE)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_plugin_of_another_package_runs_in_the_built_in_server_and_uses_current_prices(
    workers: int, settings: dict[str, str], installed: Path, tmp_path: Path
) -> None:
    prices = tmp_path / "anthropic-proxy.toml"
    prices.write_text(PRICES.format("10"))
    given = with_path(settings, installed, PLUGINS="request-costs")
    with running_proxy(tmp_path, given, serve(workers)) as proxy, proxy.client() as client:
        request = ask("Say exactly: x")
        assert client.post(MESSAGES, json=request).status_code == 200
        (first,) = wait_for(lambda: read_costs(proxy.log))
        prices.write_text(PRICES.format("30"))
        reload(proxy)

        def later_cost() -> float:
            seen = len(read_costs(proxy.log))
            assert client.post(MESSAGES, json=request).status_code == 200
            return wait_for(lambda: read_costs(proxy.log)[seen:])[0]

        # a worker that has not read the settings yet has the first price
        assert wait_for(later_cost, lambda cost: cost != first) == pytest.approx(3 * first, abs=2e-6)
    assert "Traceback" not in proxy.log


def test_an_installed_plugin_without_the_setting_is_not_imported(
    settings: dict[str, str], installed: Path, tmp_path: Path
) -> None:
    (installed / "request_costs.py").write_text("raise RuntimeError")
    with running_proxy(tmp_path, with_path(settings, installed)) as proxy, proxy.client() as client:
        assert client.post(MESSAGES, json=ask("Say exactly: x")).status_code == 200
    assert "RuntimeError" not in proxy.log


@pytest.mark.parametrize(
    ("plugins", "module", "last_line"),
    [
        (
            "request-cost",
            MODULE,
            '✕ No installed package has the plugin "request-cost" of PLUGINS. Plugins of installed packages: '
            "request-costs.",
        ),
        (
            "request-costs",
            "from anthropic_proxy.errors import ConfigurationError\n\n\ndef open_plugin(settings):\n"
            '    raise ConfigurationError("COSTS_FILE is not set.")\n',
            '✕ Plugin "request-costs" of PLUGINS: COSTS_FILE is not set.',
        ),
        (
            "request-costs",
            "import missing_package\n",
            'This error is from the plugin "request-costs" of PLUGINS (request-costs 1.0).',
        ),
        (
            "request-costs",
            "def open_plugin(settings): pass\n",
            '✕ The plugin "request-costs" of PLUGINS (request-costs 1.0) returned no object of the class Plugin.',
        ),
    ],
)
@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("config", "check")])
def test_a_plugin_that_cannot_be_opened_ends_the_start_with_its_name(
    plugins: str, module: str, last_line: str, command: tuple[str, ...], installed: Path, tmp_path: Path
) -> None:
    (installed / "request_costs.py").write_text(module)
    settings = with_path({"SERVE_DEMO": "true", "DATABASE_URL": "off"}, installed, PLUGINS=plugins)
    ended = run_command(*command, settings=settings, directory=tmp_path)
    status = 2 if last_line.startswith("✕") else 1
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (status, last_line)


def test_a_name_that_two_packages_have_ends_the_start(installed: Path, tmp_path: Path) -> None:
    install(installed, MODULE, name="other-costs")
    settings = with_path({"SERVE_DEMO": "true", "DATABASE_URL": "off"}, installed, PLUGINS="request-costs")
    ended = run_command("serve", "--port", "0", settings=settings, directory=tmp_path)
    text, _, packages = ended.stderr.rstrip(".\n").partition(": ")
    assert text == '✕ Several installed packages have the plugin "request-costs" of PLUGINS'
    assert sorted(packages.split(", ")) == ["other-costs 1.0", "request-costs 1.0"]


def test_a_program_with_its_own_plugins_has_those_of_the_settings_too(
    settings: dict[str, str], installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "gateway.py").write_text(PROGRAM)
    (tmp_path / "anthropic-proxy.toml").write_text(PRICES.format("10"))
    given = with_path(settings, installed, DATABASE_URL=f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    command = ("-m", "uvicorn", "gateway:app", "--no-access-log", "--port", "{port}")
    with running_proxy(tmp_path, given, command) as proxy, proxy.client() as client:
        assert client.post(MESSAGES, json=ask("Say exactly: x")).status_code == 200
        (cost,) = wait_for(lambda: read_costs(proxy.log))
        stored = wait_for(lambda: client.get("/api/requests").json().get("requests"))
        assert float(stored[0]["cost"]) == pytest.approx(cost, abs=1e-6)
    assert "Traceback" not in proxy.log
