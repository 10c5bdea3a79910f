"""Parts of requests to Responses."""

ISSUED = {"rs_known": "gAAAAABpknown=="}
"""Reasoning that the server gave."""
USER = {"role": "user", "content": "hello"}
SCHEMA = {"type": "object", "properties": {"file_path": {"type": "string"}}, "required": ["file_path"]}
READ = {"type": "function", "name": "Read", "parameters": SCHEMA, "strict": False}
