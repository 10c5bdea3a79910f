"""Runs attacks: one server process per row, measured from outside."""

import json
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

from tests.attacks.monitor import Monitor, Responsiveness, read_main_thread_seconds, read_memory, reset_peak_memory
from tests.attacks.upstream import AttackUpstream, reply_text
from tests.faults.client import Answer, Asking
from tests.support.server_process import Proxy, running_proxy

MAX_GROWTH_MIB = 100
"""Memory that one attack may take above the memory before it."""
MAX_BLOCK_REFERENCES = 40
"""Longest block of the event loop, in requests of 1 MB; one takes some 5 ms, so 200 ms."""
MAX_COPIES = 8
"""Copies of a large input: received, decoded, prepared, encoded, sent."""
MAX_RUNS = 3
"""Runs of an attack with a value above its bound."""
STOP_SECONDS = 3
_REFERENCE_REQUESTS = 5
_SILENCE_SECONDS = 3.0
"""Wait for a server that neither reads nor writes."""
_MAX_RECEIVED_BYTES = 4 << 20


@dataclass
class Attack:
    """The running server as the attacker sees it."""

    proxy: Proxy
    upstream: AttackUpstream
    key: str = ""
    """The proxy's key, sent with each request of `post`; "": none."""

    @property
    def port(self) -> int:
        return int(self.proxy.url.rpartition(":")[2])

    def post(self, body: Any, path: str = "/v1/messages") -> Answer:
        """Send one request; `body` is bytes or a value to encode as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        client = Asking(self.port)
        try:
            key = b"x-api-key: %b\r\n" % self.key.encode() if self.key else b""
            head = b"POST %b HTTP/1.1\r\nHost: localhost\r\n%bcontent-length: %d\r\n\r\n"
            client.send(head % (path.encode(), key, len(data)), data)
            answer = client.read_answer()
        finally:
            client.close()
        assert not answer.hung, "no answer within 60 s"
        return answer

    def post_together(self, bodies: Sequence[Any]) -> list[Answer]:
        """Send all requests at once."""
        with ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(self.post, bodies))

    def exchange(self, *pieces: bytes) -> bytes:
        """Send bytes on one connection while reading; return the first 4 MiB received until the end or a silence."""
        received = bytearray()
        with socket.create_connection(("127.0.0.1", self.port), timeout=_SILENCE_SECONDS) as connection:

            def read() -> None:
                with suppress(OSError):
                    while data := connection.recv(262_144):
                        received.extend(data[: _MAX_RECEIVED_BYTES - len(received)])

            reader = Thread(target=read)
            reader.start()
            with suppress(OSError):
                for piece in pieces:
                    connection.sendall(piece)
            reader.join()
        return bytes(received)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One attack."""

    name: str
    run: Callable[[Attack], list[Answer]]
    """Performs the attack and returns the answers that are checked."""
    statuses: frozenset[int] = frozenset({200, 400})
    """Statuses that the answers may have."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """`{directory}` in a value stands for the folder of the server, `{upstream}` for the address of the provider."""
    configuration: str = ""
    """Text of `anthropic-proxy.toml`, filled in the same way."""
    has_defects: bool = False
    """True if the row has a plugin with defects, whose tracebacks the log then has."""
    input_mib: int = 0
    """Size of one ordinary but large input; several copies of it may exist at once."""


@dataclass
class Result:
    """The outcome of one attack."""

    case: Row
    responsiveness: Responsiveness
    reference_seconds: float
    """Processor time of the main thread for one ordinary request of 1 MB."""
    growth_mib: float
    left_mib: float
    problems: list[str]
    """Answers, log lines or exit statuses that are not as required."""
    excesses: list[str]
    """Measured values above their bounds. Other work on the machine can cause them."""


@contextmanager
def _serving(case: Row) -> Iterator[Attack]:
    upstream = AttackUpstream()
    protocols = {
        "OPENAI_BASE_URL": f"{upstream.url}/v1",
        "OPENAI_API_KEY": "sk-attack-0001",
        "GROQ_BASE_URL": f"{upstream.url}/v1",
        "GROQ_API_KEY": "gsk_attack_0001",
        "GEMINI_BASE_URL": upstream.url,
        "GEMINI_API_KEY": "attack-gemini-1",
        "OLLAMA_API_BASE": upstream.url,
        "ANTHROPIC_UPSTREAM_URL": upstream.url,
        "ANTHROPIC_API_KEY": "attack-ant-1",
        "PREFERRED_PROVIDER": "openai",
        "STOP_TIMEOUT": str(STOP_SECONDS),
        "PYTHONASYNCIODEBUG": "",
    }
    with tempfile.TemporaryDirectory() as directory:
        texts = {"{directory}": directory, "{upstream}": upstream.url}
        if case.configuration:
            (Path(directory) / "anthropic-proxy.toml").write_text(_fill(case.configuration, texts))
        try:
            settings = {name: _fill(value, texts) for name, value in case.settings.items()}
            with running_proxy(Path(directory), {**protocols, **settings}) as proxy:
                yield Attack(proxy, upstream, case.settings.get("PROXY_API_KEY", ""))
        finally:
            upstream.close()


def _fill(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def run_row(case: Row) -> Result:
    """Run one attack. An attack with a value above its bound is repeated; the values of the last run count.

    Processor time includes time that a hypervisor gives to other machines, so one measurement proves no excess.
    """
    for _ in range(MAX_RUNS - 1):
        result = _run_once(case)
        if result.problems or not result.excesses:
            return result
    return _run_once(case)


def _run_once(case: Row) -> Result:
    """Run one attack against a server process of its own."""
    with _serving(case) as attack:
        pid = attack.proxy.process.pid
        reference = _measure_reference(attack)
        reset_peak_memory(pid)
        before = read_memory(pid)
        monitor = Monitor(attack.port, pid)
        answers = case.run(attack)
        responsiveness = monitor.finish()
        growth = read_memory(pid, "VmHWM") - before
        attack.upstream.reply = reply_text("All is well.")
        problems = [*_check_answers(case, answers), *_check_service(attack)]
        excesses: list[str] = []
        result = Result(case, responsiveness, reference, growth, read_memory(pid) - before, problems, excesses)
        if responsiveness.max_block_seconds > MAX_BLOCK_REFERENCES * reference:
            multiple = responsiveness.max_block_seconds / reference
            excesses.append(f"blocked for {multiple:.0f} ordinary requests of 1 MB")
        if growth > MAX_GROWTH_MIB + MAX_COPIES * case.input_mib:
            excesses.append(f"memory grew by {growth:.0f} MiB")
        status = attack.proxy.stop(signal.SIGTERM)
        if status != 0:
            problems.append(f"SIGTERM ended the process with {status}")
        if "Traceback" in attack.proxy.log and not case.has_defects:
            problems.append("traceback: " + attack.proxy.log[attack.proxy.log.index("Traceback") :][:1_500])
        return result


def ordinary(model: str, text: Any = "Hello", **fields: Any) -> dict[str, Any]:
    """Return an ordinary request."""
    return {"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": text}], **fields}


def _measure_reference(attack: Attack) -> float:
    pid, times = attack.proxy.process.pid, []
    turns = [{"role": ("user", "assistant")[i % 2], "content": "word " * 100} for i in range(2_001)]
    data = json.dumps({"model": "openai/gpt-4.1", "max_tokens": 100, "messages": turns}).encode()
    for _ in range(_REFERENCE_REQUESTS):
        start = read_main_thread_seconds(pid)
        assert attack.post(data).status == 200
        times.append(read_main_thread_seconds(pid) - start)
    return sorted(times)[_REFERENCE_REQUESTS // 2]


def _check_answers(case: Row, answers: Sequence[Answer]) -> Iterator[str]:
    for answer in answers:
        if answer.hung or not answer.complete:
            yield "an answer did not arrive"
        elif answer.status not in case.statuses:
            yield f"status {answer.status}: {answer.body[:300]!r}"
        elif answer.status >= 400 and not answer.error.get("message"):
            yield f"status {answer.status} without the error envelope: {answer.body[:300]!r}"
        yield from answer.faults


def _check_service(attack: Attack) -> Iterator[str]:
    answer = attack.post(ordinary("openai/gpt-4.1"))
    if answer.status != 200 or answer.text != "All is well.":
        yield f"an ordinary request afterwards: {answer.status} {answer.body[:200]!r}"
