"""An MCP server over stdio with tools unlike Claude Code's own: it keeps notes in the directory that it is given.

Run as `python mcp_server.py DIRECTORY`; it imports nothing of the project, because its client starts it.
"""

import json
import sys
from pathlib import Path
from typing import Any

NAME = {"type": "string", "description": "The name of a note.", "minLength": 1}
TOOLS = [
    {
        "name": "open_note",
        "description": "Give the text of a note.",
        "inputSchema": {"type": "object", "properties": {"note_name": NAME}, "required": ["note_name"]},
    },
    {
        "name": "store_note",
        "description": "Keep a text under a name.",
        "inputSchema": {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "object",
            "properties": {
                "note_name": {"$ref": "#/definitions/name"},
                "body": {"type": "string"},
                "shelf": {"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}], "default": None},
            },
            "definitions": {"name": NAME},
            "required": ["note_name", "body"],
            "additionalProperties": False,
        },
    },
]


def run_tool(directory: Path, name: str, arguments: dict[str, Any]) -> str:
    note = directory / arguments["note_name"]
    if name == "open_note":
        return note.read_text("utf-8")
    note.write_text(arguments["body"], "utf-8")
    return f"kept {len(arguments['body'])} characters"


def answer(directory: Path, request: dict[str, Any]) -> dict[str, Any]:
    method, params = request["method"], request.get("params", {})
    if method == "initialize":
        server = {"name": "cabinet", "version": "1"}
        return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": server}
    if method == "tools/list":
        return {"tools": TOOLS}
    if method == "tools/call":
        try:
            text, failed = run_tool(directory, params["name"], params["arguments"]), False
        except (OSError, KeyError) as error:
            text, failed = repr(error), True
        return {"content": [{"type": "text", "text": text}], "isError": failed}
    return {}


def main() -> None:
    directory = Path(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        if "id" in request:
            print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": answer(directory, request)}), flush=True)


if __name__ == "__main__":
    main()
