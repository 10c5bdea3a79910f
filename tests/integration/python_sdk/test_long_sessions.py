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
    (summarized,) = (turn for turn, (_, _, seen) in enumerate(turns) if seen["summaries"])
    cited = [turn for turn, (_, _, seen) in enumerate(turns) if seen["citations"]]
    # the summary replaces the sources, and with them the instruction how to cite; the provider's own has none
    last = TURNS if wire.kind.has_native_features else summarized
    assert cited == [turn for turn in range(last) if turn != summarized]
    assert max(tokens for tokens, _, _ in turns) < 60_000
