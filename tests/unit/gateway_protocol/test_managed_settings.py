"""`GET /managed/settings`: what Claude Code gets for a key, and that it always gets an answer with which it starts."""

import asyncio
import json
import shlex
import tempfile
from pathlib import Path

import pytest
from msgspec import structs

from anthropic_proxy.console.gateway_protocol.managed_settings import PATH, calculate_checksum, merge_settings
from anthropic_proxy.console.keys.machine_reports import MachineReport, read_reports, store_report
from anthropic_proxy.console.keys.virtual_keys import decode_rule_texts
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.gateway.settings.key_rules import Rules
from anthropic_proxy.gateway.stores.memory import MemoryStore
from tests.support.golden_texts import Check
from tests.support.ledger import NOON
from tests.support.virtual_keys import Response, running_app, send, store_key

FILE = "anthropic-proxy.toml"


async def ask(directory: Path, key: str, path: str = PATH, **headers: str) -> Response:
    async with running_app(directory) as app:
        return await send(app, "GET", path, authorization=f"Bearer {key}", **headers)


def show(case: str) -> str:
    """Return the settings for the key of a case as JSON, or the error."""
    files = {"key": "", ".env": "", "toml": ""}
    for line in case.splitlines():
        name, _, text = line.partition(" ")
        files[name] += f"{text}\n"
    words = shlex.split(files["key"])
    options = dict(zip([word.removeprefix("--") for word in words[::2]], words[1::2], strict=True))
    team = options.pop("team", "")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / ".env").write_text(files[".env"])
        (directory / FILE).write_text(files["toml"])
        key = store_key(directory, Rules(**decode_rule_texts(options)), team=team)
        reply = asyncio.run(ask(directory, key))
    if reply.status != 200:
        return f"{reply.status} {reply.message}"
    checksum = reply.json["checksum"]
    assert (reply.json["uuid"], reply.headers["etag"]) == (checksum, f'"{checksum}"')
    lines = []
    for name, value in reply.json["settings"].items():
        items = value.items() if isinstance(value, dict) else [("", value)]
        lines += [f"{name}.{key}".rstrip(".") + f" {json.dumps(item, ensure_ascii=False)}" for key, item in items]
    return "\n".join(lines) or "nothing"


def test_settings_of_claude_code_follow_from_those_of_the_proxy_and_the_rules_of_the_key(golden: Check) -> None:
    golden("managed_settings", show)


async def test_the_answer_has_a_checksum_and_none_is_sent_again(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('[managed_settings."*"]\ncleanupPeriodDays = 30\n')
    key = store_key(tmp_path, Rules())
    async with running_app(tmp_path, ANTHROPIC_API_KEY="sk-ant-0123456789") as app:
        bearer = f"Bearer {key}"
        first = await send(app, "GET", PATH, authorization=bearer, user_agent="claude-code/2.1.332")
        # the checksum is that of the settings as compact JSON with sorted names, by sha256sum
        checksum = "sha256:7efd7856bbdaada6ed11e64239bc8bede7154bbfca8582833eb90bb8adec5672"
        variables = {
            "ANTHROPIC_DEFAULT_OPUS_MODEL": "claude-opus-5-5",
            "ANTHROPIC_DEFAULT_SONNET_MODEL": "claude-sonnet-5-5",
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": "claude-haiku-5-5",
            "ANTHROPIC_DEFAULT_FABLE_MODEL": "claude-fable-5-2",
        }
        shown = {"cleanupPeriodDays": 30, "env": variables}
        assert first.json == {"uuid": checksum, "checksum": checksum, "settings": shown}
        assert {name: first.headers[name] for name in ("etag", "cache-control", "content-type")} == {
            "etag": f'"{checksum}"',
            "cache-control": "no-store",
            "content-type": "application/json",
        }
        again = await send(app, "GET", PATH, authorization=bearer, if_none_match=f'"{checksum}"')
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", f'"{checksum}"')
        other = await send(app, "GET", PATH, authorization=bearer, if_none_match='"sha256:0"')
        assert (other.status, other.json) == (200, first.json)
        for name in ("x-cc-gateway-version", "content-length"):
            assert name not in again.headers, again.headers


async def test_a_key_without_any_model_of_claude_code_may_not_use_it(tmp_path: Path) -> None:
    key = store_key(tmp_path, Rules(models=("claude-opus-2",)))
    reply = await ask(tmp_path, key)
    assert (reply.status, reply.json["error"]) == (
        403,
        {
            "type": "permission_error",
            "message": "The key 'ci' allows no model of Claude Code. Ask an administrator of the proxy for models.",
        },
    )
    wrong = await ask(tmp_path, "sk-ap-wrong")
    assert (wrong.status, wrong.headers["x-should-retry"]) == (401, "false")


async def test_no_limit_of_the_key_applies(tmp_path: Path) -> None:
    key = store_key(tmp_path, Rules(requests_per_minute=1, concurrency=1))
    async with running_app(tmp_path) as app:
        replies = await asyncio.gather(*(send(app, "GET", PATH, x_api_key=key) for _ in range(5)))
    assert [reply.status for reply in replies] == [200] * 5


async def test_the_last_report_of_each_machine_is_kept() -> None:
    store, held = MemoryStore(), "sha256:3facd639e66cffd04b3007a46595b795700dc9bee71b1511a0dc116efad9fce4"
    first = MachineReport("sign_a", NOON, "claude-code/2.1.331", "", held)
    other = MachineReport("sign_b", NOON + 1, "claude-code/2.1.332", f"sha256:{'b' * 200}", held)
    again = MachineReport("sign_a", NOON + 2, "claude-code/2.1.332", held, held)
    for report in (first, other, again):
        await store_report(store, "key_1", report)
    found = await read_reports(store, "key_1")
    assert [one.describe() for one in found] == [
        "3facd639, up to date, claude-code/2.1.332",
        "bbbbbbbb, sent 3facd639, claude-code/2.1.332",
    ]
    assert first.describe() == "none, sent 3facd639, claude-code/2.1.331"
    await store_report(store, "key_1", first)  # a single question to Claude Code stores nothing on the machine
    assert (await read_reports(store, "key_1"))[0].describe() == "3facd639, up to date, claude-code/2.1.331"
    await store_report(store, "key_1", structs.replace(first, held="sha256:cccccccc", sent=""))  # a request
    assert (await read_reports(store, "key_1"))[0].describe() == "cccccccc, sent 3facd639, claude-code/2.1.331"
    found = await read_reports(store, "key_1")
    assert len(found[1].held) == 100
    await store.put("managed-settings/key_1", "of another version", 60)
    assert await read_reports(store, "key_1") == []


def test_tables_are_merged_and_other_values_replaced() -> None:
    generated = {"env": {"A": "1", "B": "2"}, "availableModels": ["a"], "modelPicker": {"options": []}}
    own = {"env": {"B": "3"}, "availableModels": ["b"], "modelPicker": "none", "model": "b"}
    assert merge_settings(generated, own) == {
        "env": {"A": "1", "B": "3"},
        "availableModels": ["b"],
        "modelPicker": "none",
        "model": "b",
    }


def test_numbers_of_the_checksum_have_the_form_of_javascript() -> None:
    # node -e 'console.log(JSON.stringify({"a":2.0,"b":[0.25,3]}))' prints {"a":2,"b":[0.25,3]}
    assert calculate_checksum({"b": [0.25, 3.0], "a": 2.0}) == calculate_checksum({"a": 2, "b": [0.25, 3]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[managed_settings]\nmodel = "opus"\n',
            'managed_settings is "{"model":"opus"}". Use a table. Set in FILE, line 1.',
        ),
        (
            '[managed_settings."*"]\nminimumVersion = 2026-11-27\n',
            'managed_settings."*".minimumVersion is "2026-11-27". Use a text, number, true, false, list or table. Set '
            "in FILE, line 2.",
        ),
    ],
)
def test_values_that_cannot_be_sent_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        load_settings({}, PROVIDERS, env_file=str(tmp_path / ".env"))
    assert [one.replace(str(tmp_path / FILE), "FILE") for one in raised.value.messages] == [message]


def test_unknown_settings_and_wrong_types_are_warnings(tmp_path: Path) -> None:
    lines = [
        '[managed_settings."*"]',
        'forceLoginMethod = "gateway"',
        "cleanupPeriodDay = 30",
        'availableModels = "opus"',
        "verbose = 1",
        "cleanupPeriodDays = true",
        "env = { A = 1, B = '2' }",
        "theme = 'dark'",
    ]
    (tmp_path / FILE).write_text("\n".join(lines))
    settings = load_settings({}, PROVIDERS, env_file=str(tmp_path / ".env"))
    assert [warning.replace(str(tmp_path / FILE), "FILE") for warning in settings.warnings] == [
        'FILE line 2: managed_settings."*".forceLoginMethod has no effect, because Claude Code reads it only from the '
        "machine.",
        'FILE line 3: managed_settings."*".cleanupPeriodDay is no known setting of Claude Code. It is sent '
        "nevertheless. Did you mean:  cleanupPeriodDays",
        'FILE line 4: managed_settings."*".availableModels has the wrong type, so Claude Code will ignore it. Use a '
        "list.",
        'FILE line 5: managed_settings."*".verbose has the wrong type, so Claude Code will ignore it. Use true or '
        "false.",
        'FILE line 6: managed_settings."*".cleanupPeriodDays has the wrong type, so Claude Code will ignore it. Use a '
        "number.",
        'FILE line 7: managed_settings."*".env.A has the wrong type, so Claude Code will ignore it. Use a text in '
        "quotes.",
    ]
