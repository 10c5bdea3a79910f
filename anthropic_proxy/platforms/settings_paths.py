"""Paths of settings files of other programs, which differ by operating system."""

import sys
from collections.abc import Mapping
from pathlib import Path


def managed_claude_settings(environ: Mapping[str, str]) -> list[Path]:
    """Return the paths of the settings file with which an organization controls Claude Code on this machine."""
    if sys.platform == "win32":
        roots = [environ.get("PROGRAMFILES", r"C:\Program Files"), environ.get("PROGRAMDATA", r"C:\ProgramData")]
        return [Path(root) / "ClaudeCode" / "managed-settings.json" for root in roots]
    if sys.platform == "darwin":
        return [Path("/Library/Application Support/ClaudeCode/managed-settings.json")]
    return [Path("/etc/claude-code/managed-settings.json")]
