"""List of the plugin packages, and `open_plugins`, which opens those that the settings enable."""

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module

from anthropic_proxy.plugins import Plugin
from anthropic_proxy.settings import Settings

PLUGIN_PACKAGES: Sequence[tuple[str, Callable[[Settings], bool]]] = ()
"""Import names of plugin packages, each with the condition under which it is imported and opened."""


def open_plugins(settings: Settings) -> Iterator[Plugin]:
    """Yield the plugins that these settings enable. Packages of other plugins are not imported."""
    for package, is_enabled in PLUGIN_PACKAGES:
        if is_enabled(settings):
            plugin: Plugin = import_module(package).open_plugin(settings)
            yield plugin
