"""A ledger with a day of invented requests, for the pictures of the documentation."""

import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from anthropic_proxy.engine.messages.fidelity import FidelityNote, FidelityReport, note_replacement
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.plugins import BlockMark, Client, Receipt, UpstreamAttempt
from bench.ledger_rows import write_receipts

DAYS = 8
REQUESTS = 6_400
_TARGETS = (
    ("openai", "gpt-4.1", "claude-sonnet-4-6", 48),
    ("openai", "gpt-4.1-mini", "claude-haiku-4-5", 31),
    ("google", "gemini-2.5-pro", "claude-opus-4-5", 13),
    ("groq", "llama-3.3-70b-versatile", "claude-haiku-4-5", 5),
    ("ollama", "qwen3-coder:30b", "claude-haiku-4-5", 3),
)
"""Provider, model, requested model, and weight."""
_SPEEDS = {
    "gpt-4.1": 64,
    "gpt-4.1-mini": 92,
    "gemini-2.5-pro": 78,
    "llama-3.3-70b-versatile": 240,
    "qwen3-coder:30b": 31,
}
"""Model → output tokens per second."""
_NOTES = [
    note_replacement("max_tokens", 64000, 32768, ", the model's limit"),
    FidelityNote("emulated", "stop_sequences", "cut by the proxy: the provider does not report the matched sequence"),
    FidelityNote("dropped", "top_k", "the provider has no such parameter"),
]
_LIMIT = "groq rate limit reached: 12,000 tokens per minute for this key. groq accepts requests again in 12 s."


def write_sample_day(file: Path, count: int = REQUESTS, days: float = DAYS, clients: Sequence[Client] = ()) -> None:
    """Create the ledger with the writer of the proxy. `count`: number of requests in the last `days`."""
    settings = load_settings({"DATABASE_URL": f"sqlite:///{file}"}, PROVIDERS, env_file=None)
    write_receipts(settings, _receipts(count, days, clients or [Client()]))


def _receipts(count: int, days: float, clients: Sequence[Client]) -> Iterator[Receipt]:
    """Yield receipts in order of time."""
    chance, now = random.Random(1), time.time()
    ages = sorted((_choose_age(chance, now, days) for _ in range(count)), reverse=True)
    for number, age in enumerate(ages):
        is_incident = age < 86_400 and 13 <= ((now - age) / 3_600) % 24 < 14.5
        weights = [40 if is_incident and target[0] == "groq" else target[3] for target in _TARGETS]
        provider, model, requested, _ = chance.choices(_TARGETS, weights)[0]
        first, output = chance.lognormvariate(-0.5, 0.45), chance.randint(20, 900)
        receipt = Receipt(
            request_id=f"req_{number:06d}{chance.randrange(16**12):012x}",
            client=clients[number % len(clients)],
            started_at=now - age,
            requested_model=requested,
            provider=provider,
            prefix="gemini" if provider == "google" else provider,
            model=model,
            route="cheap first" if provider == "groq" else "",
            route_reason="default" if provider == "openai" else f"MODEL_{requested.split('-')[1].upper()}, .env line 4",
            stream=True,
            tool_count=22,
            message_count=chance.randint(1, 60),
            tool_results=number % 3,
            tool_errors=int(number % 3 == 1 and number % 11 < (4 if provider in ("groq", "ollama") else 1)),
            input_tokens=chance.randint(300, 6_000),
            cache_read_tokens=0 if provider in ("groq", "ollama") else chance.randint(5_000, 45_000),
            output_tokens=output,
            thinking_tokens=output * 2 // 3 if provider == "google" else 0,
            first_token_seconds=first,
            duration_seconds=first + output / (_SPEEDS[model] * chance.lognormvariate(0, 0.12)),
            status=200,
            outcome=chance.choice(["end_turn", "tool_use", "tool_use"]),
            user_agent="claude-cli/2.1.328 (external, cli)",
        )
        receipt.project = chance.choice(["checkout-api", "docs-site", "infra"])
        receipt.session = f"7d1f{int(age // 9_000):04d}-c04a-4d0e-9d0a-{receipt.project.encode().hex()[:12]}"
        yield _with_outcome(receipt, chance, 0.5 if is_incident else 0.04)


def _choose_age(chance: random.Random, now: float, days: float) -> float:
    """Return the seconds since a request. Most requests are in the afternoon."""
    while True:
        age = 86_400 * days * chance.random()
        if chance.random() <= 0.06 + math.exp(-((((now - age) / 3_600) % 24 - 13) ** 2) / 14):
            return age


def _with_outcome(receipt: Receipt, chance: random.Random, limited: float) -> Receipt:
    """Make a few requests fail, retried or changed by the translation. `limited`: share of those to Groq that fail."""
    if receipt.provider == "groq" and chance.random() < limited:
        receipt.status, receipt.outcome, receipt.error_type, receipt.error = 429, "error", "rate_limit_error", _LIMIT
        receipt.error_code = "rate-limit"
        receipt.output_tokens, receipt.input_tokens, receipt.first_token_seconds = 0, 0, None
        receipt.duration_seconds = 0.2
    elif receipt.provider == "openai" and chance.random() < 0.03:
        receipt.failed_attempts = ["groq 429"]
        lost = receipt.first_token_seconds or 0.4
        receipt.attempts = [
            UpstreamAttempt(
                provider="groq",
                model="llama-3.3-70b-versatile",
                offset_seconds=0.0004,
                duration_seconds=lost * 0.3,
                status=429,
                error_type="rate_limit_error",
                error=_LIMIT,
            ),
            UpstreamAttempt(
                provider="openai",
                model=receipt.model,
                offset_seconds=lost * 0.32,
                duration_seconds=receipt.duration_seconds - lost * 0.32,
                status=200,
            ),
        ]
        receipt.fidelity = FidelityReport(approximated=1, emulated=1, dropped=1, notes=list(_NOTES))
        receipt.blocks = _blocks(receipt)
    else:
        receipt.outcome = "max_tokens" if chance.random() < 0.01 else receipt.outcome
        receipt.blocks = _blocks(receipt)
    return receipt


def _blocks(receipt: Receipt) -> list[BlockMark]:
    """Return text, followed by two tool calls if the reply ended with them."""
    start = receipt.started_at + (receipt.first_token_seconds or 0)
    length, characters = receipt.started_at + receipt.duration_seconds - start, receipt.output_tokens * 4
    found: list[BlockMark] = [("text", "", start, 0)]
    if receipt.outcome == "tool_use":
        found += [
            ("tool call", "Read", start + length * 0.4, characters * 2 // 5),
            ("tool call", "Bash", start + length * 0.6, characters * 3 // 5),
        ]
    return [*found, ("", "", start + length, characters)]
