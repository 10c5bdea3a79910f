"""An interactive session of a new user: every request of Claude Code is answered, also those that are not for a model.

If the environment names an HTTP proxy, Claude Code sends no greeting (`HEAD /api/hello`). Without one it would call its
own servers. So the session runs in a network namespace that has only the loopback interface.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.e2e.claude import find_claude
from tests.e2e.terminal import terminal
from tests.support.server_process import running_proxy
from tests.support.waiting import wait_for

ALONE = ("unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
TIMEOUT_SECONDS = 240
LOGGED = re.compile(r"^\d\d:\d\d:\d\d  ([A-Z]+) (/\S*) (\d{3})\b", re.MULTILINE)


def run_session(folder: Path) -> None:
    """Print what log, ledger and dashboard show after a session."""
    server, work = folder / "server", folder / "work"
    for place in (server, work):
        place.mkdir()
    (work / "quince.txt").write_text("jelly\n")
    settings = {
        "DATABASE_URL": f"sqlite:///{server}/ledger.sqlite3",
        "LOG_LEVEL": "debug",  # every request has a line
    }
    own = {
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"), ""),
        "ANTHROPIC_API_KEY": "",
        "ANTHROPIC_AUTH_TOKEN": "local",
        "CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY": "1",
    }
    with running_proxy(server, settings) as proxy:
        with terminal(find_claude(), proxy.url, work, is_new_user=True, **own) as screen:
            screen.wait_for("Syntax theme")
            screen.type("")
            screen.wait_for("Press Enter to continue")
            screen.type("")
            screen.wait_for("Yes, I trust this folder")
            screen.type("\x1b[B")  # the other choice ends the program
            screen.wait_for("(shift+tab to cycle)")
            screen.type("hello, who are you?")
            screen.wait_for("demonstration of anthropic-proxy")
            screen.type("list the files here")
            screen.wait_for("quince.txt")
            screen.type("/context")
            screen.wait_for("Free space")
        client = proxy.client()
        sent = [line for line in LOGGED.findall(proxy.log) if line[1] == "/v1/messages"]
        stored = wait_for(lambda: client.get("/api/requests").json()["requests"], lambda rows: len(rows) >= len(sent))
        found = {
            "logged": LOGGED.findall(proxy.log),
            "stored": [(row["path"], row["status"], row["outcome_class"], row["error"]) for row in stored],
            "rejected": re.findall(
                r"^anthropic_proxy_rejected_requests_total{.* [1-9].*", client.get("/metrics").text, re.M
            ),
            "overview": re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", client.get("/dashboard").text)),
        }
    print(json.dumps(found))


def test_a_session_of_a_new_user_has_no_failed_request(claude: Path) -> None:
    if not shutil.which(ALONE[0]) or subprocess.run([*ALONE, "true"], check=False).returncode:
        pytest.skip("platform: no network namespaces")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*ALONE, sys.executable, "-m", __name__, folder],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    logged = [tuple(line) for line in found["logged"]]
    assert [line for line in logged if not line[2].startswith("2")] == []
    assert {
        ("HEAD", "/api/hello"),
        ("GET", "/v1/models"),
        ("POST", "/v1/messages"),
        ("POST", "/v1/messages/count_tokens"),
    } <= {line[:2] for line in logged}
    assert found["rejected"] == []
    assert len(found["stored"]) == [line[1] for line in logged].count("/v1/messages")
    assert {tuple(row) for row in found["stored"]} == {("/v1/messages", 200, "ok", "")}
    total = len(found["stored"])
    assert f"In the last 24 hours {total} of {total} requests succeeded and were free ." in found["overview"]
    assert "No failed requests in this range." in found["overview"]
    assert "No provider is chosen, so the demo replies. Choose a provider: anthropic-proxy init" in found["overview"]


if __name__ == "__main__":
    run_session(Path(sys.argv[1]))
