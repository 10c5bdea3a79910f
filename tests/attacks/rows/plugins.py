"""A plugin of another package whose hooks fail, hang, and return what they may not: it concerns no other part."""

from urllib.parse import quote

from tests.attacks.buyer import KEY_SETTINGS, Attempts, Buyer
from tests.attacks.lab import Attack, Row, ordinary
from tests.attacks.packages.hostile_plugin import DECIDED, OTHERS, RAISED, SECRET
from tests.attacks.upstream import reply_text
from tests.faults.client import Answer
from tests.support.paths import ROOT

_CHAT, _RELAYED = "openai/gpt-4.1", "claude-haiku-4-5"
_HOOKS = {
    "settle": RAISED,
    "record": (*RAISED, "a text"),
    "recorder": (*RAISED, "a text"),
    "conditions": (*RAISED, "None", "a text", "texts", "no problem"),
    "counts": (*RAISED, "None", "a text", "texts"),
}
"""Hook that only watches → its faults."""
_ROUTE = (
    *("None", "a text", "a header with a line end", "a name with a line end", "a header beyond Latin-1"),
    *("a header of numbers", "an unknown status", "a status in words"),
)


class _Plugin:
    def __init__(self, attack: Attack) -> None:
        self.client = attack.proxy.client(headers={"x-api-key": KEY_SETTINGS["PROXY_API_KEY"]})

    def choose(self, hook: str, fault: str) -> None:
        answer = self.client.get(f"/hostile/{hook}/{quote(fault)}")
        assert answer.status_code == 200, (hook, fault, answer.text)


def _judge(attack: Attack) -> list[Answer]:
    """What an inspector has not judged is neither sent nor shown, and the inspector is named as the cause."""
    attempts = Attempts()
    buyer, plugin = Buyer(attack), _Plugin(attack)
    text = f"say {SECRET} now"
    for part in ("request", "reply"):
        attack.upstream.reply = reply_text(text if part == "reply" else "All is well.", 3)
        for fault in (*RAISED, *DECIDED, *OTHERS):
            plugin.choose(part, fault)
            for model, streams in ((_CHAT, True), (_CHAT, False), (_RELAYED, True)):
                attack.upstream.calls.clear()
                answer = buyer.post({**ordinary(model, text if part == "request" else "hi"), "stream": streams})
                shown = b"".join(call.raw for call in attack.upstream.calls).decode() + answer.text
                is_held = SECRET not in shown and "in the proxy" not in shown and "\x1b" not in answer.text
                is_held &= answer.status_code in (200, 400, 503)
                name = f"{part}, {fault}, {model}, {'stream' if streams else 'whole'}"
                attempts.check(name, is_held, (answer.status_code, answer.text))
    plugin.choose("none", "none")
    assert buyer.post(ordinary(_CHAT, text)).status_code == 200
    assert SECRET not in str(attack.upstream.calls[-1].body)
    assert "REDACTED_WORD_" in str(attack.upstream.calls[-1].body)
    attempts.check("no escapes in the log", "\x1b]52" not in attack.proxy.log)
    return attempts.finish(attack)


def _watch(attack: Attack) -> list[Answer]:
    """A hook that only watches fails no request and no probe, and one that decides fails closed."""
    attempts = Attempts()
    buyer, plugin = Buyer(attack), _Plugin(attack)
    attack.upstream.reply = reply_text("All is well.")
    for hook, faults in _HOOKS.items():
        for fault in faults:
            if fault == "a cancellation":  # ends the task that waits, as it must
                continue
            plugin.choose(hook, fault)
            statuses = [buyer.post({**ordinary(_CHAT), "stream": streams}).status_code for streams in (True, False)]
            statuses += [plugin.client.get(path).status_code for path in ("/readyz", "/metrics", "/health")]
            attempts.check(f"{hook}, {fault}", statuses == [200] * 5, statuses)
    plugin.choose("none", "none")
    attempts.check("metrics after all faults", plugin.client.get("/metrics").status_code == 200)
    for fault in RAISED:
        plugin.choose("admit", fault)
        attack.upstream.calls.clear()
        answer = buyer.post(ordinary(_CHAT))
        is_held = answer.status_code >= 500 and not attack.upstream.calls
        attempts.check(f"admit, {fault}", is_held, (answer.status_code, answer.text))
    for fault in (*RAISED, *_ROUTE):
        plugin.choose("route", fault)
        answer = plugin.client.get("/hostile")
        is_held = answer.status_code >= 500 and "set-cookie" not in answer.headers and "x-b" not in answer.headers
        attempts.check(f"route, {fault}", is_held, (answer.status_code, answer.text))
    plugin.choose("none", "none")
    attempts.check("no escapes in the log", "\x1b]52" not in attack.proxy.log)
    return attempts.finish(attack)


_PACKAGES = f"{ROOT}:{ROOT / 'tests' / 'attacks' / 'packages'}"
_SETTINGS = {**KEY_SETTINGS, "PREFERRED_PROVIDER": "anthropic", "PLUGINS": "hostile", "PYTHONPATH": _PACKAGES}
PLUGINS: tuple[Row, ...] = (
    Row(name="plugins: decisions of an inspector that are none", run=_judge, settings=_SETTINGS, has_defects=True),
    Row(name="plugins: hooks that fail", run=_watch, settings=_SETTINGS, has_defects=True),
)
