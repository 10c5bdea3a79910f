"""Static files: the limit of the script, and colors with enough contrast in both themes."""

import itertools
import math
import operator
import re
import subprocess
import sys
from pathlib import Path

import pytest

from anthropic_proxy.console.dashboard.error_kinds import KINDS
from anthropic_proxy.console.dashboard.web import load_assets
from tests.support.waiting import WAIT_SECONDS

IMPORT_CHECK = """
import asyncio, sys, threading
from importlib import import_module
from importlib.abc import MetaPathFinder
from types import SimpleNamespace

slow = []

class Watch(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if threading.current_thread() is threading.main_thread():
            if name.partition(".")[0] in ("jinja2", "markupsafe", "sqlalchemy"):
                slow.append(name)

sys.meta_path.insert(0, Watch())
from anthropic_proxy.console.dashboard.plugin import open_plugin
from anthropic_proxy.plugins import Client, RouteRequest
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import load_settings

async def main():
    settings = load_settings({}, PROVIDERS, env_file=None)
    plugin = open_plugin(settings)
    print(sorted(name for name in sys.modules if name.startswith("anthropic_proxy.console.")))
    await plugin.start(SimpleNamespace(settings=settings, log_warning_once=print))
    routes = {(route.path, route.methods[0]): route.respond for route in plugin.routes}
    visitor = Client(name="")
    asset = routes["/dashboard/static/{name}", "GET"]
    load_assets = (await asyncio.to_thread(import_module, "anthropic_proxy.console.dashboard.web")).load_assets
    file = await asset(RouteRequest(path=load_assets()["dashboard.js"].url, client=visitor))
    sign_in = await routes["/dashboard/sign-in", "GET"](RouteRequest(path="/dashboard/sign-in", client=visitor))
    print(file.status, sign_in.status, slow)

asyncio.run(main())
"""
STYLE = load_assets()["dashboard.css"].content.decode()
COLORS = {name: pair for name, *pair in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", STYLE)}
PROVIDER_COLORS = dict(re.findall(r"\.l-([\w-]+) \{ --c: var\(--([\w-]+)\); \}", STYLE.split(".b-demo")[0]))
"""CSS class of a provider → name of its color."""
GRAPHICS = (
    *dict.fromkeys(PROVIDER_COLORS.values()),
    *("cache-read", "input", "cache-write", "output", "accent", *(role for _, role in KINDS.values())),
)


def find_linear_channels(color: str) -> list[float]:
    channels = (int(color[index : index + 2], 16) / 255 for index in (1, 3, 5))
    return [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]


def luminance(color: str) -> float:
    return sum(map(operator.mul, (0.2126, 0.7152, 0.0722), find_linear_channels(color)))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_script_loads_nothing() -> None:
    script = load_assets()["dashboard.js"].content.decode()
    assert not re.search(r"https?://|import |eval|innerHTML", script)


@pytest.mark.parametrize("theme", [0, 1])
def test_colors_have_enough_contrast(theme: int) -> None:
    faint = [name for name in GRAPHICS if contrast(COLORS[name][theme], COLORS["panel"][theme]) < 3]
    texts = ("text", "muted", "accent", "ok", "warn", "error")
    grounds = ("page", "panel", "sunken")
    faint += [
        f"{name} on {ground}"
        for name in texts
        for ground in (*grounds, *([f"{name}-soft"] if f"{name}-soft" in COLORS else []))
        if contrast(COLORS[name][theme], COLORS[ground][theme]) < 4.5
    ]
    assert faint == []


def find_position(color: str) -> tuple[float, float, float]:
    """Return the coordinates of a color in OKLab, in which equal distances look equally different."""
    linear = find_linear_channels(color)
    cones = ((0.4122, 0.5363, 0.0514), (0.2119, 0.6807, 0.1074), (0.0883, 0.2817, 0.63))
    long, medium, short = (sum(map(operator.mul, weights, linear)) ** (1 / 3) for weights in cones)
    return (
        0.2105 * long + 0.7936 * medium - 0.0041 * short,
        1.978 * long - 2.4286 * medium + 0.4506 * short,
        0.0259 * long + 0.7828 * medium - 0.8087 * short,
    )


@pytest.mark.parametrize("theme", [0, 1])
def test_colors_of_providers_can_be_told_apart(theme: int) -> None:
    assert {"groq", "own-1", "own-2", "own-3", "own-4"} <= PROVIDER_COLORS.keys()
    positions = {name: find_position(COLORS[name][theme]) for name in dict.fromkeys(PROVIDER_COLORS.values())}
    pairs = itertools.combinations(positions, 2)
    assert [(one, other) for one, other in pairs if math.dist(positions[one], positions[other]) < 0.1] == []


def test_the_start_static_files_and_sign_in_import_no_library_for_pages_on_the_event_loop(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(IMPORT_CHECK)
    command = [sys.executable, program]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False, cwd=tmp_path)
    at_start = ["anthropic_proxy.console.dashboard", "anthropic_proxy.console.dashboard.plugin"]
    assert (checked.stdout, checked.stderr) == (f"{at_start}\n200 200 []\n", "")
