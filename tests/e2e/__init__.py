"""Real clients against the proxy as a process; `scripts/ci.py e2e` runs them, the README's test command does not."""
