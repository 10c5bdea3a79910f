"""An MCP server over stdio whose only tool adds another one, which the server announces.

It imports nothing of the project, because its client starts it.
"""

import json
import sys

TOOLS = ["grow", "late"]


def main() -> None:
    number = 1
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        result: dict[str, object] = {}
        if message["method"] == "initialize":
            result = {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {"listChanged": True}},
                "serverInfo": {"name": "growing", "version": "1"},
            }
        elif message["method"] == "tools/list":
            result = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS[:number]]}
        elif message["method"] == "tools/call":
            number, result = 2, {"content": [{"type": "text", "text": "There is another tool now."}]}
            send({"method": "notifications/tools/list_changed"})
        send({"id": message["id"], "result": result})


def send(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
