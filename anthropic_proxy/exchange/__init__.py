"""The corridor: walks one request through the rooms. Names no provider."""
