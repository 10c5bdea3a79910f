"""Our own language: the Messages API as structs, deltas and events. Knows no provider."""
