"""Paths of settings files of other programs, which differ by operating system."""

import sys
from collections.abc import Mapping
from pathlib import Path


def managed_claude_settings_paths(environ: Mapping[str, str]) -> list[Path]:
    """Return the paths of the settings files with which an organization controls Claude Code on this machine."""
    if sys.platform == "win32":
        names = [environ.get("PROGRAMFILES", r"C:\Program Files"), environ.get("PROGRAMDATA", r"C:\ProgramData")]
        roots = [Path(name) / "ClaudeCode" for name in names]
    elif sys.platform == "darwin":
        roots = [Path("/Library/Application Support/ClaudeCode")]
    else:
        roots = [Path("/etc/claude-code")]
    return [
        file
        for root in roots
        for file in (root / "managed-settings.json", *sorted((root / "managed-settings.d").glob("*.json")))
    ]
