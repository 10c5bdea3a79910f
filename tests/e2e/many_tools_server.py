"""An MCP server over stdio with so many tools that Claude Code defers them.

Run as `python many_tools_server.py NUMBER`; it imports nothing of the project, because its client starts it.
"""

import json
import sys


def main() -> None:
    described = {"type": "string", "description": "A text. " * 40}
    tools = [
        {
            "name": f"tool_{number}",
            "description": "Does one of many things. " * 40,
            "inputSchema": {"type": "object", "properties": {"text": described}},
        }
        for number in range(int(sys.argv[1]))
    ]
    replies = {
        "initialize": {
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "many", "version": "1"},
        },
        "tools/list": {"tools": tools},
        "tools/call": {"content": [{"type": "text", "text": "It is done. " * 100}], "isError": False},
    }
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            result = replies.get(message["method"], {})
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
