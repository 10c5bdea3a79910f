"""The street: the only room that opens sockets."""
