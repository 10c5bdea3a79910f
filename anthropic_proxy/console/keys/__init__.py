"""Virtual keys: keys that the proxy itself issues to clients, with owner, team, models, limits and budgets.

This package is a plugin, which the setting `VIRTUAL_KEYS=true` enables.
"""
