"""Messages about the tables `[[routes]]`, in full: field, value, file and line, remedy."""

from pathlib import Path

import pytest

from anthropic_proxy.errors import ConfigurationError
from tests.support.recorded_texts import Compare
from tests.support.routes import load_routes

ROUTE = '[[routes]]\nname = "a"\ntargets = ["openai/gpt-4.1"]\n'
TWO = '[[routes]]\nname = "a"\ntargets = ["openai/gpt-4.1", "gemini/gemini-2.5-pro"]\n'

INVALID = [
    '[[routes]]\ntargets = ["haiku"]\n',
    '[[routes]]\nname = "a"\n',
    ROUTE + "\n" + ROUTE.replace('"a"', '"b"') + "when = { teir = 'opus' }\n",
    ROUTE + "[routes.when]\ntier = 'opsu'\n",
    ROUTE + "when.input_above = 0\n",
    ROUTE + "when = { input_above = 10, input_below = 11 }\n",
    ROUTE + "when.share = 101\n",
    ROUTE + "when.tier = []\n",
    ROUTE + "when.time = '8-18'\n",
    ROUTE + "when = { time = '08:00-18:00', time_zone = 'Berlin' }\n",
    ROUTE + "when.time_zone = 'UTC'\n",
    ROUTE + "when.header = { X-Api-Key = 'k' }\n",
    ROUTE.replace('"a"', '"a\\nb"'),
    ROUTE + "\n" + ROUTE,
    '[[routes]]\nname = "a"\ntargets = []\n',
    ROUTE + 'balance = "latency"\n',
    '[[routes]]\nname = "a"\ntargets = ["haiku", "openai/gpt-4.1"]\nbalance = "cost"\n',
    TWO + 'balance = "weigthed"\n',
    TWO + "weights = [1, 2]\n",
    TWO + 'balance = "weighted"\nweights = [1, 2, 3]\n',
]


def test_an_invalid_route_is_reported(recorded: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = {}
    for text in INVALID:
        with pytest.raises(ConfigurationError) as caught:
            load_routes(tmp_path, text)
        (texts[text],) = caught.value.messages
    recorded(texts)


def route(name: str, when: str = "") -> str:
    return f'[[routes]]\nname = "{name}"\ntargets = ["haiku"]\nwhen = {{ {when} }}\n'


UNUSED = [
    route("all") + route("b", 'tier = "opus"'),
    route("a", 'tier = "opus"') + route("b", 'tier = "opus", images = true'),
    route("a", 'header = { X-A = "1" }') + route("b", 'header = { x-a = "1" }'),
    route("a", 'model = ["x", "y"]') + route("b", 'model = ["y", "x"]'),
    route("all", "share = 100") + route("b", 'tier = "opus"'),
    *(
        route("a", wide) + route("b", narrow)
        for wide, narrow in (
            ('model = "claude-*"', 'model = "Claude-Opus-*", thinking = true'),
            ('model = ["gpt-*", "*-mini"]', 'model = "o3-mini"'),
            ('tier = ["opus", "haiku"]', 'tier = "opus"'),
            ('tier = "opus", input_above = 100', 'tier = "opus", input_above = 200'),
            ("input_above = 100, input_below = 900", "input_above = 100, input_below = 800, images = true"),
            ('project = "*"', 'project = "web"'),
            ('key = "ci", share = 100', 'key = "ci", share = 5'),
            ('header = { x-a = "t*" }', 'header = { X-A = ["t1", "team-?"] }'),
            ('weekdays = ["sat", "sun"]', 'weekdays = "sun", time = "08:00-10:00"'),
            ('time = "20:00-08:00"', 'time = ["22:00-06:00", "21:00-23:00"]'),
        )
    ),
]


USED = [
    route("a", "share = 10") + route("b", "share = 10"),
    route("a", "share = 10") + route("b"),
    route("a", 'tier = "opus"') + route("b", 'tier = "haiku"'),
    route("a", 'time = "08:00-10:00"') + route("b", 'time = "08:00-10:00", time_zone = "UTC"'),
    route("a", 'weekdays = "sat"') + route("b", 'weekdays = "sat", time = "22:00-06:00"'),
    route("a", "input_above = 200") + route("b", "input_above = 100"),
    route("a", 'model = "claude-opus-*"') + route("b", 'model = "claude-*"'),
    route("a", 'model = "claude-opus-?"') + route("b", 'model = "claude-opus-*"'),
    route("a", 'tier = "opus"') + route("b", 'tier = ["opus", "haiku"]'),
    route("a", 'header = { x-a = "*", x-b = "*" }') + route("b", 'header = { x-a = "1" }'),
    route("a", 'project = "*"') + route("b", 'project = ""'),
    route("a", 'project = ""') + route("b", 'tier = "opus"'),
    route("a", "images = true") + route("b", "images = false"),
]


def test_a_route_that_no_request_can_reach_is_a_warning(recorded: Compare, tmp_path: Path) -> None:
    recorded({text: "\n".join(load_routes(tmp_path, text).warnings) for text in (*UNUSED, *USED)})
