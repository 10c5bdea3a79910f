"""The plugin packages: optional features of this project, such as the ledger (database of requests) or traces.

`PLUGIN_PACKAGES` lists them with the conditions that enable them, and `open_plugins` opens the enabled ones. The
dashboard is enabled if the packages that it imports are installed (`has_dashboard_packages`).
"""

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec

from anthropic_proxy.plugins import Plugin
from anthropic_proxy.settings import Settings


def has_dashboard_packages(settings: Settings) -> bool:
    """Return True if the packages of the extra `dashboard` are installed."""
    return find_spec("jinja2") is not None and find_spec("pygal") is not None


PLUGIN_PACKAGES: Sequence[tuple[str, Callable[[Settings], bool]]] = (
    ("anthropic_proxy.ledger.plugin", Settings.has_ledger),
    ("anthropic_proxy.access.plugin", lambda settings: settings.virtual_keys),
    ("anthropic_proxy.traces", Settings.has_traces),
    ("anthropic_proxy.ledger.price_updater", lambda settings: settings.price_update_days > 0),
    ("anthropic_proxy.dashboard", has_dashboard_packages),
)
"""Pairs of import name and condition of a plugin package. The package is imported and opened if its condition is True
for the settings."""


def open_plugins(settings: Settings) -> Iterator[Plugin]:
    """Yield the plugin of each enabled package in `PLUGIN_PACKAGES`. Disabled packages are not imported."""
    for package, is_enabled in PLUGIN_PACKAGES:
        if is_enabled(settings):
            plugin: Plugin = import_module(package).open_plugin(settings)
            yield plugin
