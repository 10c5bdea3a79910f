"""Forty turns that pass every trigger: edits, a summary, citations, a PDF and pictures in one session."""

import pytest

from tests.support.edited_sessions import TURNS, run_session
from tests.support.shared_servers import every_kind
from tests.support.wires import Upstream


@pytest.mark.merge
@every_kind
def test_every_feature_acts_in_one_session(wire: Upstream) -> None:
    turns = [*run_session(wire)]
    edits = {kind for _, _, seen in turns for kind in seen["edits"]}
    assert "clear_tool_uses_20250919" in edits
    assert ("clear_thinking_20251015" in edits) == bool(wire.kind.thoughts)
    assert sum(seen["summaries"] for _, _, seen in turns) == 1
    assert sum(seen["citations"] for _, _, seen in turns) >= TURNS - 1
    assert max(tokens for tokens, _, _ in turns) < 60_000
