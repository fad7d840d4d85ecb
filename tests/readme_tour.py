"""The commands of README.md, taken from the file and run: its blocks of code, in the words that stand there."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trustme

ROOT = Path(__file__).parent.parent
SERVES = "Paretopress listens on "
EXAMPLE_CANDIDATE, EXAMPLE_DATASET = "s-1f0c2a91d3e7/c0007", "d-4f0c2a91d3e7"


def blocks(text: str = "") -> dict[str, str]:
    """Every block marked as sh or python, by its first two words, in order.

    Raises:
        ValueError: two begin alike.
    """
    found: dict[str, str] = {}
    for block in re.findall(r"^```(?:sh|python)\n(.*?)^```", text or (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL):
        name = " ".join(block.splitlines()[0].partition(" #")[0].split()[:2])
        if name in found:
            raise ValueError(f"two blocks begin with {name!r}")
        found[name] = block
    return found


def commands(block: str) -> list[str]:
    """The commands of a block for a shell; what goes on over several lines is one."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line for line in lines if shlex.split(line, comments=True)]


@dataclass
class Tour:
    """Somebody who follows the README in a folder.

    Attributes:
        environment: variables of the shell; `export` adds to them.
        replaced: what stands in the README as an example only, and the real thing.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of_this_checkout(folder: Path, variables: Mapping[str, str]) -> Tour:
        """With this interpreter's programs on the path."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return Tour(folder, {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **variables})

    def run(self, command: str, appended: str = "") -> str:
        """What a command of the shell prints.

        Raises:
            AssertionError: it failed; carries what it printed.
        """
        return self._checked(["bash", "-c", f"{self._real(command)} {appended}"])

    def python(self, block: str) -> str:
        """What a program prints."""
        return self._checked(["python", "-c", self._real(block)])

    def export(self, command: str) -> None:
        """Carry out ``export NAME=VALUE ...``."""
        word, *pairs = shlex.split(self._real(command), comments=True)
        assert word == "export", command
        self.environment |= dict(pair.split("=", 1) for pair in pairs)

    @contextmanager
    def serving(self, command: str) -> Iterator[str]:
        """Run ``paretopress serve`` until the block ends; yields its log once it answers."""
        log = self.folder / "serve.log"
        with log.open("w") as file:
            full = ["bash", "-c", self._real(command)]
            server = subprocess.Popen(
                full, cwd=self.folder, env=self.environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            deadline = time.monotonic() + 120
            while SERVES not in log.read_text():
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield log.read_text()
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(60)

    def _checked(self, command: list[str]) -> str:
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _real(self, text: str) -> str:
        for example, real in self.replaced.items():
            text = text.replace(example, real)
        return text


def candidate_in(output: str) -> str:
    """The candidate that ``paretopress search`` offers for a download, as SEARCH/CANDIDATE."""
    found = re.search(r"candidates download projects/default/searches/(\S+)/candidates/(\S+)", output)
    assert found, output
    return f"{found[1]}/{found[2]}"


def write_certificates(tour: Tour) -> None:
    """The files that the README names for letting others in; the server is on this machine."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tour.folder / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tour.folder / "server.pem"))
    issued.private_key_pem.write_to_path(str(tour.folder / "server.key"))
    tour.replaced["paretopress.example:50051"] = tour.environment["PARETOPRESS_ADDRESS"]
