"""Calls to the operating system: signals, memory, file descriptors, terminals, child processes. No proxy logic."""
