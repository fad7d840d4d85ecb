"""Prints what the image installs, a requirement a line, from the ``pyproject.toml`` of the current folder."""

import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
print(*project["dependencies"], *project["optional-dependencies"]["server"], sep="\n")
