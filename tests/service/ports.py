"""Ports for servers that do not tell which they took."""

from __future__ import annotations

import socket


def free_port() -> int:
    """One that nobody uses at the moment."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])
