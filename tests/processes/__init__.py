"""Several processes, signals, reloads and pauses: the merge tier runs them, the README's test command does not."""
