"""Some attacks of each kind; `scripts/ci.py attacks` runs all of them."""

from collections import Counter

import pytest

from tests.attacks.lab import Row, run_row
from tests.attacks.rows import ROWS

QUICK = (
    "tool schema: root anyOf × 10 references to the root",
    "forced tool: 300 strings of 4 MB",
    "reply schema: definitions that double on 30 levels",
    "8,000 turns with one id",
    "2,000,000 keys without a model, /v1/messages",
    "2,000,000 keys without a model, /v1/messages/count_tokens",
    "2,000,000 keys in a relayed body",
    "2,000,000 keys in a request of a batch",
    "80,000 requests of a batch with routes",
    "400 bodies of 120 KB that wait for their provider",
    "20 bodies whose schemas have one definition 1,000 times",
    "reply: '```json\\n' × 60,000 in one piece",
    "provider: a trailer of 50 MB",
    "client: HTTP/1.0 with Upgrade and chunks",
    "own requests of a key for one provider",
    "texts: of clients",
    "verdicts: streams of a relay that clients read in another way",
    "verdicts: commands that may run what an earlier call has written with a redacted text",
    "verdicts: calls that run a redacted word",
    "verdicts: lines and deltas that only some clients read",
    "verdicts: complete messages that are read in several ways",
    "spending: other models of a key for one model",
    "spending: counts of a relay",
    "neighbours: refusals with the text of another key",
    "neighbours: the session of another key",
    "neighbours: slow PDFs of another key",
    "people: own keys, and keys of others",
    "telemetry: another sender",
    "inspected: a placeholder 8,000 times in a reply",
    "inspected: a key at each place of a request",
    "media: orders in descriptions of pictures",
    "media: the picture of another key",
    "media: bombs in pictures",
    "media: one picture 12,000 times",
    "marks: those of the proxy, copied from each text of a request",
    "marks: those of the proxy in what it encloses",
    "media: a PDF: objects in a stream of 1 GB",
    "access: credentials and paths of others",
    "fetches: addresses of this machine and its network",
    "plugins: hooks that fail",
)


@pytest.mark.parametrize("case", [case for case in ROWS if case.name in QUICK], ids=lambda case: case.name)
def test_an_attack_neither_blocks_the_server_nor_fills_its_memory(case: Row) -> None:
    result = run_row(case)
    assert (result.problems, result.excesses) == ([], [])


def test_every_attack_has_its_own_name() -> None:
    counted = Counter(case.name for case in ROWS)
    assert [name for name, count in counted.items() if count > 1] == []
    assert set(QUICK) <= counted.keys()
