"""The server as a real process, spoken to over a socket."""
