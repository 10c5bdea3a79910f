"""Everything that several test modules share: the proxy without a socket, processes, fake providers, golden cases."""
