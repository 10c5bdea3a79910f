"""`python -m bench.prefix_guard`: CPU time of the prefix guard as a share of a whole request of 120 KB.

The guard runs in this process, with the prompts of 64 conversations in turn, so that no prompt is in a processor's
cache. Rounds of it alternate with rounds of requests to a proxy. A provider that reports what it has read from its
cache spares the comparison of all bytes, so both kinds are measured.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from anthropic_proxy.engine.providers.prefix_guard import PrefixGuard, Prompt
from bench.bodies import cut_at_number, make_messages, to_chat_body
from bench.load import BenchError, fire, wait_for_reply
from bench.processes import free_port
from bench.subjects import PROXY, start_proxy, start_upstream

SIZE = 120_000
ROUNDS = 11
CONVERSATIONS = 64
TURNS = 8
REQUESTS = 200


class Conversations:
    def __init__(self, cached_tokens: int) -> None:
        self._cached_tokens = cached_tokens
        self._guard = PrefixGuard()
        self._body = cut_at_number(to_chat_body(make_messages(SIZE, "m", stream=True)))
        self._turn = 0

    def measure(self) -> float:
        """Return the seconds for one prompt."""
        spent = 0.0
        for _ in range(TURNS):
            self._turn += 1
            bodies = [self._body.numbered(self._turn) for _ in range(CONVERSATIONS)]
            begun = time.thread_time()
            for session, body in enumerate(bodies):
                prompt = Prompt((str(session), "", "openai", "m"), body, SIZE // 4, self._cached_tokens)
                self._guard.compare(prompt)
                self._guard.keep(prompt)
            spent += time.thread_time() - begun
        return spent / TURNS / CONVERSATIONS


async def measure(directory: Path) -> list[tuple[float, float, float]]:
    """Return the seconds of the guard with and without the provider's count, and of a request, for each round.

    Raises `BenchError`.
    """
    upstream, port, shot = free_port(), free_port(), PROXY.shot(SIZE, "bench-whole")
    found = list[tuple[float, float, float]]()
    counted, uncounted = Conversations(SIZE // 4), Conversations(0)
    for conversations in (counted, uncounted):
        conversations.measure()
    with start_upstream(directory, upstream), start_proxy(directory, port, upstream) as proxy:
        await wait_for_reply(port, shot, proxy.alive)
        await fire(port, shot, count=REQUESTS, connections=4)
        for _ in range(ROUNDS):
            before = await proxy.settle()
            await fire(port, shot, count=REQUESTS, connections=4)
            found.append((counted.measure(), uncounted.measure(), (await proxy.settle() - before) / REQUESTS))
    return found


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        try:
            found = asyncio.run(measure(Path(directory)))
        except BenchError as error:
            print(f"✕ {error}", file=sys.stderr)
            return 1
    request = statistics.median(each[2] for each in found) * 1e6
    print(f"a request takes {request:.0f} µs, of which the guard has, in the median of {ROUNDS} rounds")
    for kind, title in enumerate(("if the provider reports cached tokens", "if it reports none")):
        shares = sorted(each[kind] / each[2] for each in found)
        guard = statistics.median(each[kind] for each in found) * 1e6
        print(f"{title}: {guard:.1f} µs, {statistics.median(shares):.2%} ({shares[0]:.2%} to {shares[-1]:.2%})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
