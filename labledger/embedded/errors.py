"""What goes wrong with the servers that we bring along."""


class EmbeddedError(Exception):
    """A server of ours cannot be started. The text says why and what to do."""
