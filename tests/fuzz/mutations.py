"""Bytes that are almost right: JSON with one unexpected value, lines in another order, broken characters."""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

MAX_INPUT_BYTES = 64 * 1024
HOSTILE = (
    *(b"null", b"true", b"0", b"-1", b"0.5", b"1e400", b"-1e-400", b"NaN", b"Infinity", b"-Infinity"),
    *(b"9223372036854775808", b"1" + b"0" * 400, b'""', b'" "', b'"a"', b'"\\ud800"', b'"\\udc00\\ud83d"'),
    *(b'"\\u0000"', b'"\\r\\n: x"', '"\u2028\u2029\u0085"'.encode(), '"\u202e\ufeff\ufffe"'.encode()),
    *('"😀e\u0301"'.encode(), b'"\xff\xfe"', b'"\xed\xa0\x80"', b'"\\x"', b"[]", b"{}", b"[null]", b"[[]]"),
    *(b'{"": null}', b'{"type": null}', b'{"type": "text"}', b'{"a": 1, "a": {"a": 2}}', b"[" * 300 + b"]" * 300),
    *(b'{"a":' * 250 + b"1" + b"}" * 250, b'"{\\"a\\": 1}"'),
    b'"<think>a</think><tool_call>{\\"name\\": \\"x\\", \\"arguments\\": {}}</tool_call>"',
    *(b'"https://example.com/\\u0000?a=\\n"', b'"data:image/png;base64,iVBORw0KGgo="'),
)
"""Valid and nearly valid JSON in place of a value."""
HUGE = (b'"' + b"\\u00e9" * 3_000 + b'"', b"-" + b"9" * 5_000, b"[" * 9_000, b"[" + b"{}," * 5_000 + b"{}]")
STRETCHED = (
    *b"a . 9 : , - ' ` ( [ { } < = % a. <a </ <think> </think> <tool_call> <function=a> [TOOL_CALLS] ``` \\\\".split(),
    *b"Bearer sk- retry\\u0020 1m max_tokens https://a.b/ \xc3\xa9 \xf0\x9f\x98\x80".split(),
    *(b" ", b"\\n", b"a ", b"9 tokens ", b"x: ", b"retry in 1", b"Bearer a "),
)
"""Parts of a string that are repeated ten thousand times: code that looks for one may look too often."""
TOKENS = (
    *(b"\n", b"\r\n", b"\r", b"\n\n", b"\xef\xbb\xbf", b"\0", b"\xff\xfe", b"data: ", b"data:", b"event: error\n"),
    *(b": ping\n\n", b"[DONE]", b"{", b"}", b'"', b"\\", b",", b":", b"<", b">", b"=", b"%", b"</", b"<think>"),
    *(b"</think>", b"<tool_call>", b"<|", b"|>", b"```json\n", b"px1.", b"Content-Length: 5\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"ffffffffffffffff\r\n"),
)
_MARK = "0hostile0"
_SELDOM = 0.02
"""The probability of a large input: most of the budget is for small inputs."""


def _hostile(random: Random) -> bytes:
    choice = random.random()
    if choice < _SELDOM / 2:
        return random.choice(HUGE)
    if choice < _SELDOM:
        piece = random.choice(STRETCHED)
        return b'"' + piece * (random.choice((2_000, 40_000)) // len(piece)) + b'"'
    return random.choice(HOSTILE)


def _times(random: Random) -> int:
    return random.choice((50, 500)) if random.random() < _SELDOM else random.choice((1, 2, 5))


class Mutator:
    """Makes new inputs of old ones; the same numbers give the same inputs."""

    def __init__(self, seeds: Sequence[bytes], headlines: Sequence[bytes]) -> None:
        self._seeds = seeds
        self._headlines = headlines

    def mutate(self, data: bytes, random: Random, plainly: Callable[[bytes], bytes] | None = None) -> bytes:
        """Return an input like this one; `plainly` changes bytes as a fuzzer does that knows nothing of their sense."""
        headline, payload = b"", data
        if self._headlines:
            headline, _, payload = data.partition(b"\n")
            headline = self._new_headline(headline, random)
        for _ in range(1 + (random.random() < 0.4) + (random.random() < 0.2)):
            choice = random.random()
            if choice < 0.55:
                payload = _mutate_json(payload, random)
            elif choice < 0.75:
                payload = self._mutate_lines(payload, random)
            elif choice < 0.9 or plainly is None:
                payload = _mutate_bytes(payload, random)
            else:
                payload = plainly(payload)
        mutated = headline + b"\n" + payload if self._headlines else payload
        return mutated[:MAX_INPUT_BYTES]

    def _new_headline(self, headline: bytes, random: Random) -> bytes:
        choice = random.random()
        if choice < 0.1:
            return random.choice(self._headlines)
        return _mutate_bytes(headline, random).replace(b"\n", b"") if choice < 0.12 else headline

    def _mutate_lines(self, data: bytes, random: Random) -> bytes:
        """Drop, repeat, exchange, cut off or borrow lines."""
        lines = data.split(b"\n")
        place, other = random.randrange(len(lines)), random.randrange(len(lines))
        choice = random.randrange(6)
        if choice == 0:
            del lines[place]
        elif choice == 1:
            lines[place:place] = lines[place : place + random.randint(1, 4)] * _times(random)
        elif choice == 2:
            lines[place], lines[other] = lines[other], lines[place]
        elif choice == 3:
            del lines[place:]
        else:
            borrowed = random.choice(self._seeds).split(b"\n")
            start = random.randrange(len(borrowed))
            lines[place:other] = borrowed[start : start + random.choice((1, 2, 8))]
        return b"\n".join(lines)


def _mutate_json(data: bytes, random: Random) -> bytes:
    """Put something hostile in place of one value of one JSON document; plain bytes where there is none."""
    whole, lines = _read(data), [data]
    place = 0
    if whole is None:
        lines = data.split(b"\n")
        candidates = [position for position, line in enumerate(lines) if b"{" in line]
        if not candidates:
            return _mutate_bytes(data, random)
        place = random.choice(candidates)
    start = lines[place].find(b"{")
    value = whole if whole is not None else _read(lines[place][start:])
    if value is None:
        return _mutate_bytes(data, random)
    changed = _change(value, random)
    line = changed if isinstance(changed, bytes) else _write(changed, random)
    lines[place] = line if whole is not None else lines[place][:start] + line
    return b"\n".join(lines)


def _read(text: bytes) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def _write(value: Any, random: Random) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=random.random() < 0.5, separators=(",", ":")).encode(
            "utf-8", "surrogatepass"
        )
    except (ValueError, RecursionError):
        return random.choice(HOSTILE)
    mark = b'"%b"' % _MARK.encode()
    while mark in text:
        text = text.replace(mark, _hostile(random), 1)
    if random.random() < 0.05 and b'{"' in text:
        place = random.choice([i for i in range(len(text)) if text.startswith(b'{"', i)][:500])
        end = text.find(b'"', place + 2)
        text = text[: place + 1] + text[place + 1 : end + 1] + b":" + random.choice(HOSTILE) + b"," + text[place + 1 :]
    return text


def _change(value: Any, random: Random) -> Any:
    """Change one node, or the shape around it."""
    places: list[tuple[Any, Any]] = []
    nodes: list[Any] = [value]
    while nodes and len(places) < 4_000:
        node = nodes.pop()
        keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
        for key in keys:
            places.append((node, key))
            if isinstance(node[key], dict | list):
                nodes.append(node[key])
    if not places or random.random() < 0.02:
        return random.choice(HOSTILE)
    node, key = random.choice(places)
    choice = random.randrange(10)
    if choice < 5:
        node[key] = _MARK
    elif choice == 5:
        del node[key]
    elif choice == 6:
        other, its = random.choice(places)
        with_key = (isinstance(other, dict) and its in other) or (isinstance(other, list) and its < len(other))
        node[key] = json.loads(json.dumps(other[its])) if with_key else None
    elif choice == 7:
        node[key] = random.choice(([node[key]], {"a": node[key]}, str(node[key])[:500], [node[key]] * 20))
    elif isinstance(node, list):
        node.insert(key, _MARK if choice == 8 else node[key])
    elif choice == 8:
        node[random.choice(("type", "id", "index", "a", "", "\ud800", key + "x"))] = _MARK
    elif isinstance(node[key], str):
        node[key] = _broken(node[key], random)
    else:
        node[key] = _MARK
    return value


def _broken(text: str, random: Random) -> str:
    place = random.randint(0, len(text))
    return (
        text[:place]
        + random.choice(("\ud800", "\u2028", "\0", "\n", "é", '"', "\\", "<", "😀" * 40, ""))
        + text[place:]
    )


def _mutate_bytes(data: bytes, random: Random) -> bytes:
    """Change bytes regardless of their meaning."""
    place = random.randint(0, len(data))
    end = min(len(data), place + random.choice((1, 2, 8, 64)))
    choice = random.randrange(7)
    if choice == 0 and place < len(data):
        return data[:place] + bytes([random.randrange(256)]) + data[place + 1 :]
    if choice == 1:
        return data[:place] + data[end:]
    if choice == 2:
        return data[:place] + random.choice(TOKENS) + data[place:]
    if choice == 3:
        return data[:place] + _hostile(random) + data[end:]
    if choice == 4:
        return data[:place]
    if choice == 5:
        return data[:place] + data[place:end] * _times(random) + data[end:]
    return (
        data[:place] + bytes([data[place] ^ (1 << random.randrange(8))]) + data[place + 1 :]
        if place < len(data)
        else data
    )
