"""Who a client is by headers and addresses: two keys at once, forged addresses, pages of other origins."""

import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx

from tests.attacks.buyer import ADMIN_KEY, KEY_SETTINGS, Attempts, Buyer
from tests.attacks.lab import Attack, Row, ordinary
from tests.attacks.upstream import reply_text
from tests.faults.client import Answer, Asking
from tests.support.server_process import running_proxy

_MODEL = "openai/gpt-4.1"
_RELAYED = "claude-haiku-4-5"
_PROXY_KEY = KEY_SETTINGS["PROXY_API_KEY"]
_BATCH = {"requests": [{"custom_id": "a", "params": ordinary(_RELAYED)}]}
_PATHS = (
    *("/v1/messages/batches", "/v1/messages/batches/msgbatch_1", "/v1/messages/batches/msgbatch_1/results"),
    *("/v1/messages/batches/msgbatch_1/cancel", "/v1/files", "/v1/files/file_1", "/v1/files/file_1/content"),
    *("/v1/skills", "/v1/skills/skill_1/versions", "//v1/messages/batches", "/v1//messages/batches"),
    *("/v1/messages/batches/", "/V1/MESSAGES/BATCHES", "/v1/messages/%62atches", "/v1/messages%2fbatches"),
    *("/v1/./messages/batches", "/v1/x/../messages/batches", "/v1/messages;x/batches", "/v1/messages/batches?a=b"),
    *("/v1/organizations/usage_report/messages", "/v1/organizations/api_keys", "/v1/models/../files"),
    *("/v1/models/%2e%2e/files", "/v1/models/..%2ffiles", "/v1/agents", "/v1/sessions", "/v1/environments"),
)
_READING = (
    *("/api/requests", "/api/usage", "/metrics", "/admin/keys", "/admin/teams", "/admin/audit", "/admin/sign-ins"),
    *("/dashboard", "/dashboard/settings", "/api/requests/live", "/api/openapi.json", "/admin/openapi.json"),
    *("/API/requests", "//api/requests", "/api//requests", "/api/requests/", "/v1/../api/requests", "/%61pi/requests"),
    *("/admin/keys/", "/admin//keys", "/ADMIN/keys", "/v1/messages/../../admin/keys", "/admin/keys;a=b"),
)


def _present(attack: Attack) -> list[Answer]:
    """Two credentials, wrong ones, and paths that belong to others."""
    attempts = Attempts()
    rich = Buyer(attack, "rich")
    poor = Buyer(attack, "poor", models=[_MODEL], providers=["openai"])
    attack.upstream.reply = reply_text("All is well.")
    plain = attack.proxy.client()
    keys = (rich.key, poor.key, _PROXY_KEY, ADMIN_KEY)

    def is_leaked() -> bool:
        return any(key in f"{call.headers}{call.path}{call.body}" for key in keys for call in attack.upstream.calls)

    body = ordinary(_RELAYED)
    for name, headers in _list_credentials(poor.key, rich.key).items():
        attack.upstream.calls.clear()
        answer = plain.post("/v1/messages", json=body, headers=headers)
        shown = answer.status_code, answer.text[:150], [call.headers for call in attack.upstream.calls]
        # a client with two valid keys may use either, but nothing else makes the rules of a key void
        is_held = answer.status_code in (400, 401, 403) or "rich" in name
        attempts.check(f"credentials, {name}", is_held and not is_leaked(), shown)
    for path in _PATHS:
        for method in ("GET", "POST", "DELETE"):
            attack.upstream.calls.clear()
            content = {"json": _BATCH} if method == "POST" else {}
            answer = poor.client.request(method, path, **content)
            is_held = not attack.upstream.calls and answer.status_code in (400, 401, 403, 404, 405, 307, 308)
            is_list = path.startswith("/v1/models/../")  # the client itself removes the step back
            attempts.check(f"{method} {path}", is_held or is_list, (answer.status_code, answer.text[:150]))
    for path in _READING:
        for name, headers in {
            "a key": {"x-api-key": poor.key},
            "the key of the proxy at administration": {"x-api-key": _PROXY_KEY} if "admin" in path.lower() else {},
            "no key": {},
            "a cookie": {"cookie": f"anthropic_proxy_session={poor.key}"},
            "a key in the query": {},
        }.items():
            query = f"?key={rich.key}&api_key={rich.key}" if "query" in name else ""
            answer = plain.get(path + query, headers=headers)
            is_public = answer.status_code in (303, 307) or "sign-in" in answer.text[:3_000].lower()
            is_held = answer.status_code >= 400 or is_public or "openapi" in path
            attempts.check(f"{path} with {name}", is_held, (answer.status_code, answer.text[:150]))
    rich_id = rich.post(ordinary(_MODEL, "the text of the rich")).headers["request-id"]
    for path in (
        *(f"/api/requests/{rich_id}", f"/api/requests/recent?id={rich_id}", "/api/requests/recent?client=rich"),
        *("/api/requests/recent?owner=rich&limit=100000", "/api/requests/recent?session=", "/api/oauth/usage?key=rich"),
    ):
        answer = poor.client.get(path)
        is_held = answer.status_code in (400, 403, 404) or rich_id not in answer.text
        attempts.check(f"the request of another key: {path[:40]}", is_held, answer.text[:300])
    return attempts.finish(attack)


def _list_credentials(poor: str, rich: str) -> Mapping[str, dict[str, str]]:
    return {
        "the key alone": {"x-api-key": poor},
        "the key and an empty one": {"x-api-key": poor, "authorization": "Bearer"},
        "the key and a wrong one": {"x-api-key": poor, "authorization": "Bearer sk-ap-wrong"},
        "a wrong one and the key": {"x-api-key": "sk-ap-wrong", "authorization": f"Bearer {poor}"},
        "the key twice": {"x-api-key": f"{poor}, {poor}"},
        "the key and a comma": {"x-api-key": f"{poor},"},
        "the key and rich as the second": {"x-api-key": poor, "authorization": f"Bearer {rich}"},
        "rich and the key as the second": {"x-api-key": rich, "authorization": f"Bearer {poor}"},
        "Basic": {"authorization": f"Basic {poor}"},
        "without a scheme": {"authorization": poor},
        "a scheme in capitals": {"authorization": f"BEARER {poor}"},
        "other headers of keys": {"x-api-key": poor, "api-key": "x", "x-goog-api-key": "y", "cookie": f"key={poor}"},
        "a proxy's authorization": {"proxy-authorization": f"Bearer {_PROXY_KEY}"},
        "the key of administration": {"x-api-key": ADMIN_KEY},
        "a header of a tier": {"x-api-key": poor, "x-proxy-key": "rich", "x-key": "rich", "x-client": "rich"},
        "a header of a role": {"x-api-key": poor, "x-role": "admin", "x-team": "core", "x-groups": "admins"},
        "the label": {"x-api-key": "rich"},
        "a pattern": {"x-api-key": "sk-ap-*"},
        "SQL": {"x-api-key": "' or 1=1 --"},
        "half of the key": {"x-api-key": poor[: len(poor) // 2]},
        "the key and a letter": {"x-api-key": f"{poor}a"},
        "another case": {"x-api-key": poor.swapcase()},
    }


_FORGED = ("127.0.0.1", "::1", "10.0.0.1", "203.0.113.9")
_FORWARDED: Mapping[str, dict[str, str]] = {
    **{f"X-Forwarded-For {address}": {"x-forwarded-for": address} for address in _FORGED},
    "two addresses": {"x-forwarded-for": "127.0.0.1, 203.0.113.9"},
    "an address and a port": {"x-forwarded-for": "127.0.0.1:80"},
    "brackets": {"x-forwarded-for": "[::1]:80"},
    "a mapped address": {"x-forwarded-for": "::ffff:127.0.0.1"},
    "no address": {"x-forwarded-for": "localhost"},
    "an empty one": {"x-forwarded-for": ""},
    "Forwarded": {"forwarded": 'for="[::1]";proto=https;host=evil.example'},
    "X-Real-IP": {"x-real-ip": "127.0.0.1"},
    "others": {"true-client-ip": "127.0.0.1", "cf-connecting-ip": "127.0.0.1", "client-ip": "127.0.0.1"},
    "host": {"x-forwarded-host": "evil.example", "x-forwarded-prefix": "/evil", "x-forwarded-proto": "https"},
    "rewritten paths": {"x-original-url": "/admin/keys", "x-rewrite-url": "/admin/keys"},
}


def _forward(attack: Attack) -> list[Answer]:
    """Headers of a reverse proxy grant nothing, from a trusted and from an untrusted address."""
    attempts = Attempts()
    for trusted in ("10.0.0.0/8", "127.0.0.1"):
        with tempfile.TemporaryDirectory() as directory:
            settings = {
                "SERVE_DEMO": "true",
                "DASHBOARD": "true",
                "PROXY_API_KEY": _PROXY_KEY,
                "DATABASE_URL": f"sqlite:///{directory}/ledger.sqlite3",
                "TRUSTED_PROXIES": trusted,
            }
            with running_proxy(Path(directory), settings) as proxy:
                for name, headers in _FORWARDED.items():
                    where = f"trusted {trusted}, {name}"
                    client = proxy.client(headers=headers)
                    for path in ("/dashboard", "/api/usage", "/admin/keys", "/metrics", "/v1/models"):
                        answer = client.get(path)
                        is_held = answer.status_code >= 400 or (path == "/dashboard" and answer.status_code == 303)
                        attempts.check(f"{where}, {path}", is_held, (answer.status_code, answer.text[:200]))
                    page = client.get("/dashboard/sign-in")
                    shown = f"{page.headers}{page.text}"
                    attempts.check(f"{where}, the sign-in page", "evil.example" not in shown and "/evil" not in shown)
                # wrong keys from one address, which states another one each time
                client = proxy.client()
                with ThreadPoolExecutor(8) as pool:
                    answers = [*pool.map(lambda number, to=client: _guess(to, number), range(330))]
                refused = sum(status == 429 for status in answers)
                expected = trusted != "127.0.0.1"
                attempts.check(f"guesses, {trusted}", (refused > 0) == expected, (refused, answers[-3:]))
    return attempts.finish(attack)


def _guess(client: httpx.Client, number: int) -> int:
    headers = {"x-forwarded-for": f"203.0.{number // 250}.{number % 250 + 1}", "sec-fetch-site": "same-origin"}
    answer = client.post("/dashboard/sign-in", data={"key": f"wrong-{number}"}, headers=headers)
    return answer.status_code


def _repeat(attack: Attack) -> list[Answer]:
    """Headers that occur twice, on the wire."""
    attempts = Attempts()
    rich, poor = Buyer(attack, "rich"), Buyer(attack, "poor", models=[_MODEL])
    attack.upstream.reply = reply_text("All is well.")
    data = b'{"model":"%b","max_tokens":9,"messages":[{"role":"user","content":"x"}]}' % _RELAYED.encode()
    for name, lines in {
        "two keys": (f"x-api-key: {poor.key}", f"x-api-key: {rich.key[:-1]}"),
        "the same key twice": (f"x-api-key: {poor.key}", f"x-api-key: {poor.key}"),
        "two authorizations": (f"authorization: Bearer {poor.key}", "authorization: Bearer x"),
        "an empty one first": ("x-api-key: ", f"x-api-key: {poor.key}"),
        "a name with a blank": (f"x-api-key : {poor.key}",),
        "a name with an underscore": (f"x_api_key: {rich.key}", f"x-api-key: {poor.key}"),
        "a folded line": (f"x-api-key: {poor.key}\r\n ,{rich.key}",),
        "two lengths": (f"x-api-key: {poor.key}", f"content-length: {len(data)}", f"content-length: {len(data)}"),
        "two hosts": (f"x-api-key: {poor.key}", "host: evil.example"),
        "a bare carriage return": (f"x-api-key: {poor.key}\rx-api-key: {rich.key}",),
        "a NUL": (f"x-api-key: {poor.key}\x00",),
    }.items():
        attack.upstream.calls.clear()
        client = Asking(attack.port)
        head = "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\n" + "".join(f"{line}\r\n" for line in lines)
        client.send(f"{head}content-length: {len(data)}\r\n\r\n".encode(), data)
        answer = client.read_answer()
        client.close()
        is_held = answer.status in (400, 401, 403) and not attack.upstream.calls
        attempts.check(f"repeated, {name}", is_held, (answer.status, answer.body[:200]))
    return attempts.finish(attack)


_SETTINGS: dict[str, Any] = {**KEY_SETTINGS, "PREFERRED_PROVIDER": "anthropic", "DASHBOARD": "true"}

ACCESS: tuple[Row, ...] = (
    Row(name="access: credentials and paths of others", run=_present, settings=_SETTINGS),
    Row(name="access: headers that occur twice", run=_repeat, settings=_SETTINGS),
    Row(name="access: headers of a reverse proxy", run=_forward),
)
