"""The command line: one file per noun, `paretopress.cli.app` puts them together."""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``paretopress`` command."""
    from paretopress.cli.app import run

    run()
