"""A client with a virtual key, the settings that it needs, and the attempts of one attack."""

import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx

from tests.attacks.lab import Attack, ordinary
from tests.attacks.upstream import reply_text
from tests.faults.client import Answer
from tests.support.waiting import PAUSE_SECONDS, WAIT_SECONDS, wait_for

ADMIN_KEY = "attack-admin-key-01"
KEY_SETTINGS = {
    "VIRTUAL_KEYS": "true",
    "DATABASE_URL": "sqlite:///{directory}/keys.sqlite3",
    "ADMIN_API_KEY": ADMIN_KEY,
    "PROXY_API_KEY": "attack-proxy-key-0001",
    "OPENAI_WIRE": "chat",
}
_JSON = {"content-type": "application/json"}


class Buyer:
    """A virtual key and what its budget has counted."""

    def __init__(self, attack: Attack, name: str = "buyer", **rules: Any) -> None:
        self.admin = attack.proxy.client(headers={"x-api-key": ADMIN_KEY})
        created = self.admin.post("/admin/keys", json={"name": name, **rules})
        assert created.status_code == 200, created.text
        self.id = created.json()["id"]
        self.key = created.json()["key"]
        self.client = attack.proxy.client(headers={"x-api-key": self.key})
        wait_for(lambda: self.client.get("/v1/models"), lambda answer: answer.status_code != 401)

    def post(self, body: Any, path: str = "/v1/messages", **headers: str) -> httpx.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(path, content=data, headers={**_JSON, **headers})

    @property
    def spent(self) -> float:
        """Dollars that the first budget has counted."""
        (spending, *_) = self.admin.get(f"/admin/keys/{self.id}").json()["spending"]
        return float(spending["used"])

    def wait_for_settled(self, least: float = 0.0) -> float:
        """Return the counted dollars when they are at least `least` and no longer change, or after a long time."""
        seen, deadline = [-1.0], time.monotonic() + WAIT_SECONDS
        while len(seen) < 3 or seen[-1] != seen[-2] or seen[-1] < least:
            if time.monotonic() > deadline:
                break
            time.sleep(PAUSE_SECONDS)
            seen.append(self.spent)
        return seen[-1]


@dataclass
class Attempts:
    """What each attempt of one attack has shown."""

    names: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def check(self, name: str, is_held: bool, shown: object = "") -> None:
        """Record an attempt. `shown`: what a reader of a failure needs."""
        self.names.append(name)
        if not is_held:
            self.failed.append(f"{name}: {str(shown)[:600]}")

    def finish(self, attack: Attack) -> list[Answer]:
        """Fail if an attempt was successful. Return an ordinary reply."""
        assert self.failed == [], f"{len(self.failed)} of {len(self.names)}:\n" + "\n".join(self.failed)
        attack.upstream.reply = reply_text("All is well.")
        return [attack.post(ordinary("openai/gpt-4.1"))]
