"""What Claude Code asks of the gateway of a company, besides the Messages API.

This package is a plugin, which the setting `VIRTUAL_KEYS=true` enables.
"""
