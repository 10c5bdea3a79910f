"""An invented run of the doctor, for the screenshots of the page Providers."""

import time
from collections.abc import Mapping
from pathlib import Path

from anthropic_proxy.console.doctor.report import Cell, Row
from anthropic_proxy.console.doctor.stored_runs import (
    DoctorRun,
    RunColumn,
    digest_backend_settings,
    store_complete,
)
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.gateway.settings.place import find_data_directory

_ROWS = (
    ("key, address", "✓ 0.29 s", "✓ 0.31 s"),
    ("streaming, tools", "✓", "✓"),
    ("parallel tools", "✓", "✓"),
    ("images", "✓", "✓"),
    ("images in tool results", "~", "~"),
    ("thinking", "–", "–"),
    ("thinking replay", "–", "–"),
    ("structured output", "✓", "✓"),
    ("stop sequences", "~ emulated", "~ emulated"),
    ("token counts", "✓", "✓"),
    ("context window, tokens", " 1,047,576", " 1,047,576"),
    ("output limit, tokens", " 32,768", " 32,768"),
)
"""Title and cells of each row: sign and text, separated by a space."""
_AGE_SECONDS = 365.0


def store_sample_run(home: Path, variables: Mapping[str, str]) -> None:
    """Store the run in the data directory of a user. `variables`: settings of the proxy that shows it."""
    directory = find_data_directory({"HOME": str(home)})
    assert directory is not None
    end = time.time() - _AGE_SECONDS
    columns = [RunColumn("openai", model, "openai") for model in ("gpt-4.1-mini", "gpt-4.1")]
    rows = [
        Row(title, [Cell(sign, text) for sign, _, text in (cell.partition(" ") for cell in cells)])
        for title, *cells in _ROWS
    ]
    digest = digest_backend_settings(load_settings(variables, PROVIDERS, env_file=None))
    run = DoctorRun(
        started_at=end - 9.8,
        ended_at=end,
        expected_requests=44,
        requests=41,
        tokens=3_120,
        price=0.003,
        columns=columns,
        rows=rows,
        settings_digest=digest,
    )
    store_complete(directory, run)
