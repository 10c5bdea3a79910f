"""Calls to the operating system that the engine needs: locked files, error texts, memory, the sandbox."""
