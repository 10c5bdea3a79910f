"""Real clients against the proxy as a process; `scripts/e2e` runs them, the README's test command does not."""
