"""Messages about the tables `[[routes]]`, in full: field, value, file and line, remedy."""

from pathlib import Path

import pytest

from anthropic_proxy.errors import ConfigurationError
from tests.support.routes import load_routes

ROUTE = '[[routes]]\nname = "a"\ntargets = ["openai/gpt-4.1"]\n'
TWO = '[[routes]]\nname = "a"\ntargets = ["openai/gpt-4.1", "gemini/gemini-2.5-pro"]\n'

INVALID = [
    ('[[routes]]\ntargets = ["haiku"]\n', "routes[0].name is missing. Set it in anthropic-proxy.toml, line 1."),
    ('[[routes]]\nname = "a"\n', "routes[0].targets is missing. Set it in anthropic-proxy.toml, line 1."),
    (
        ROUTE + "\n" + ROUTE.replace('"a"', '"b"') + "when = { teir = 'opus' }\n",
        "routes[1].when.teir is not a setting. It is in anthropic-proxy.toml, line 8. Did you mean tier",
    ),
    (
        ROUTE + "[routes.when]\ntier = 'opsu'\n",
        'routes[0].when.tier is "opsu". Use "fable", "haiku", "opus" or "sonnet" or a list, each item "fable", '
        '"haiku", "opus" or "sonnet". Set in anthropic-proxy.toml, line 5. Did you mean tier = "opus"',
    ),
    (
        ROUTE + "when.input_above = 0\n",
        'routes[0].when.input_above is "0". Use a whole number from 1 to 100000000. '
        "Set in anthropic-proxy.toml, line 4.",
    ),
    (
        ROUTE + "when = { input_above = 10, input_below = 11 }\n",
        "routes[0].when.input_below is 11, but input_above is 10, so the route never matches. Use a larger "
        "input_below. It is in anthropic-proxy.toml, line 4.",
    ),
    (
        ROUTE + "when.share = 101\n",
        'routes[0].when.share is "101". Use a number above 0 and up to 100. Set in anthropic-proxy.toml, line 4.',
    ),
    (
        ROUTE + "when.tier = []\n",
        "routes[0].when.tier is empty, so the route never matches. Add a value or remove the condition. "
        "It is in anthropic-proxy.toml, line 4.",
    ),
    (
        ROUTE + "when.time = '8-18'\n",
        'routes[0].when.time is "8-18". Use a period of hours and minutes, such as 08:00-18:00 or 22:00-06:00. '
        "Set in anthropic-proxy.toml, line 4.",
    ),
    (
        ROUTE + "when = { time = '08:00-18:00', time_zone = 'Berlin' }\n",
        'routes[0].when.time_zone is "Berlin". Use a name of the IANA time zone database, such as Europe/Berlin or '
        "UTC. If this system has no such database, install the Python package tzdata. "
        "Set in anthropic-proxy.toml, line 4.",
    ),
    (
        ROUTE + "when.time_zone = 'UTC'\n",
        "routes[0].when.time_zone has no effect without time or weekdays. Add one of them or remove time_zone. "
        "It is in anthropic-proxy.toml, line 4.",
    ),
    (
        ROUTE + "when.header = { X-Api-Key = 'k' }\n",
        "routes[0].when.header.X-Api-Key cannot be a condition: the header contains the key of the client. Use the "
        "condition key with the name of the key. It is in anthropic-proxy.toml, line 4.",
    ),
    (
        ROUTE.replace('"a"', '"a\\nb"'),
        r'routes[0].name is "a\nb". Use at most 63 letters, digits, spaces, dots, hyphens and underscores of ASCII. '
        "Set in anthropic-proxy.toml, line 2.",
    ),
    (
        ROUTE + "\n" + ROUTE,
        "Two routes have the name a: anthropic-proxy.toml line 1 and anthropic-proxy.toml line 5. Use different names.",
    ),
    (
        '[[routes]]\nname = "a"\ntargets = []\n',
        "routes[0].targets is empty. Use at least one model, such as openai/gpt-4.1. "
        "It is in anthropic-proxy.toml, line 3.",
    ),
    (
        ROUTE + 'balance = "latency"\n',
        "routes[0].balance needs at least two different targets. Add a target or remove balance. "
        "It is in anthropic-proxy.toml, line 4.",
    ),
    (
        '[[routes]]\nname = "a"\ntargets = ["haiku", "openai/gpt-4.1"]\nbalance = "cost"\n',
        'routes[0].targets contains "haiku", which stands for several models. With balance = "cost", use models with '
        "prefix, such as openai/gpt-4.1. It is in anthropic-proxy.toml, line 3.",
    ),
    (
        TWO + 'balance = "weigthed"\n',
        'routes[0].balance is "weigthed". Use "cost", "latency", "order" or "weighted". '
        'Set in anthropic-proxy.toml, line 4. Did you mean balance = "weighted"',
    ),
    (
        TWO + "weights = [1, 2]\n",
        'routes[0].weights has no effect with balance = "order". Use balance = "weighted". '
        "It is in anthropic-proxy.toml, line 4.",
    ),
    (
        TWO + 'balance = "weighted"\nweights = [1, 2, 3]\n',
        "routes[0].weights has 3 numbers, but targets has 2 models. Use one number for each model. "
        "It is in anthropic-proxy.toml, line 5.",
    ),
]


@pytest.mark.parametrize(("text", "message"), INVALID, ids=[message[:60] for _, message in INVALID])
def test_an_invalid_route_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        load_routes(tmp_path, text)
    assert [found.replace(f"{tmp_path}/", "") for found in caught.value.messages] == [message]


def route(name: str, when: str = "") -> str:
    return f'[[routes]]\nname = "{name}"\ntargets = ["haiku"]\nwhen = {{ {when} }}\n'


UNUSED = [
    (route("all") + route("b", 'tier = "opus"'), "b", 5, "all", "every request"),
    (route("a", 'tier = "opus"') + route("b", 'tier = "opus", images = true'), "b", 5, "a", "the same requests"),
    (route("a", 'header = { X-A = "1" }') + route("b", 'header = { x-a = "1" }'), "b", 5, "a", "the same requests"),
    (route("a", 'model = ["x", "y"]') + route("b", 'model = ["y", "x"]'), "b", 5, "a", "the same requests"),
    (route("all", "share = 100") + route("b", 'tier = "opus"'), "b", 5, "all", "every request"),
    *(
        (route("a", wide) + route("b", narrow), "b", 5, "a", "the same requests")
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


@pytest.mark.parametrize(("text", "unused", "line", "cover", "extent"), UNUSED)
def test_a_route_that_no_request_can_reach_is_a_warning(
    tmp_path: Path, text: str, unused: str, line: int, cover: str, extent: str
) -> None:
    (warning,) = load_routes(tmp_path, text).warnings
    assert warning.replace(f"{tmp_path}/", "") == (
        f'The route "{unused}" (anthropic-proxy.toml line {line}) is never used: the route "{cover}" '
        f'(anthropic-proxy.toml line 1) before it matches {extent}. Move [[routes]] "{unused}" up, or remove it.'
    )


@pytest.mark.parametrize(
    "text",
    [
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
    ],
)
def test_routes_that_requests_can_reach_have_no_warning(tmp_path: Path, text: str) -> None:
    assert load_routes(tmp_path, text).warnings == ()
