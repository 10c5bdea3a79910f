"""README as a new user follows it: the blocks with the word `client` as they stand, with the real programs."""

import subprocess
import sys
from pathlib import Path

import httpx

from tests.e2e.claude import environment, find_claude
from tests.packages.test_packages import run, tools
from tests.site.pages import blocks
from tests.support.fakes.openai_chat import KEY, new_openai
from tests.support.fakes.server import serving_strictly
from tests.support.paths import ROOT
from tests.support.server_process import ending, hold_port
from tests.support.waiting import wait_for

__all__ = ["tools"]
TIMEOUT_SECONDS = 240


def test_the_blocks_of_the_readme(tools: Path, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    install, init, code, costs, _service, variables = (block.text for block in blocks(text) if "client" in block.words)
    usage, logs = costs.splitlines()
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "claude").symlink_to(find_claude())
    uv = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(programs), "UV_PYTHON": sys.executable}
    run("/bin/sh", "-euc", f'cd "{ROOT}"\nPATH="{tools}:$PATH"\n{install}', directory=tmp_path, **uv)
    with hold_port() as held, serving_strictly(new_openai()) as openai:
        port = str(held)
        own = environment("", tmp_path, PORT=port, OPENAI_BASE_URL=f"{openai.url}/v1", NO_COLOR="1")
        own |= {"PATH": f"{programs}:{own['PATH']}", "OLLAMA_API_BASE": "http://127.0.0.1:9"}
        del own["ANTHROPIC_BASE_URL"], own["ANTHROPIC_API_KEY"]

        def follow(commands: str, stdin: str = "") -> str:
            """Run commands in the user's home. Claude Code without a terminal replies to its standard input, once."""
            done = subprocess.run(
                ["sh", "-euc", commands.replace("127.0.0.1:8082", f"127.0.0.1:{port}")],
                cwd=tmp_path,
                env=own,
                input=stdin,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        assert "✓ Added the lines." in follow(init, f"openai\n{KEY}\n\n\ny\n")
        replies = [follow(code, "hello")]
        with ending(subprocess.Popen([programs / "anthropic-proxy", "serve"], cwd=tmp_path, env=own)):
            wait_for(
                lambda: subprocess.run([programs / "anthropic-proxy", "health"], env=own, check=False).returncode,
                lambda status: status == 0,
            )
            replies.append(follow(variables, "hello"))
            rows = wait_for(  # the proxy stores a request after its reply
                lambda: [line.split("\t") for line in follow(usage).splitlines()],
                lambda shown: [row[1] for row in shown[1:]] == ["2"],
            )
            dashboard = httpx.get(f"http://127.0.0.1:{port}/dashboard", trust_env=False, timeout=TIMEOUT_SECONDS)
            log = subprocess.Popen(["sh", "-euc", f"exec {logs}"], cwd=tmp_path, env=own, stdout=subprocess.PIPE)
            with ending(log):  # it shows new lines until it is stopped
                assert log.stdout
                first = log.stdout.readline().decode()
    assert all(reply.startswith("I heard") and reply.endswith("hello\n") for reply in replies)
    assert [row[:3] for row in rows] == [["model", "requests", "succeeded"], ["openai/gpt-4.1", "2", "2"]]
    assert dashboard.status_code == 200
    assert "POST /v1/messages 200" in first
