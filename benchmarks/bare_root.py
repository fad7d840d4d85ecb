"""An image without a container engine: a Dockerfile's own lines, carried out in a bare Debian root by ``chroot``.

The root has what ``python:3.11-slim-bookworm`` has: Debian's smallest set, certificates, time zones, and Python with pip in
``/usr/local``. Needs root, ``mmdebstrap`` and ``unshare``. The network, and so the ports, are this machine's.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.dockerfile import Context, Instruction, instructions

PACKAGES = ("ca-certificates", "netbase", "tzdata", "python3.11", "python3.11-venv")
PIP = "pip==24.0"
_INSIDE = """set -e
root=$1; shift
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
while [ "$1" != -- ]; do mount --bind "$1" "$root$2"; shift 2; done
shift
exec chroot "$@"
"""


@dataclass
class BareRoot:
    """A root folder, and what the Dockerfile has said about it so far."""

    path: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"})
    folder: str = "/"
    user: str = "0"
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        user: str = "",
        binds: Mapping[Path, str] | None = None,
        log: Path | None = None,
    ) -> subprocess.Popen[str]:
        """Start a program as a container would; with its process ends everything it started.

        Args:
            binds: what of this machine stands where in the root.
            log: where it writes to; otherwise its output can be read from the process.
        """
        variables = [f"{name}={value}" for name, value in {**self.environment, **(environment or {})}.items()]
        mounts = [str(part) for pair in (binds or {}).items() for part in pair]
        who = user or self.user
        inside = ["sh", "-c", 'cd "$0" && exec "$@"', self.folder, *command]
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _INSIDE, "-", str(self.path), *mounts, "--"]
        full = [*apart, f"--userspec={who}:{who}", str(self.path), "env", "-i", *variables, *inside]
        output = log.open("w") if log else subprocess.PIPE
        return subprocess.Popen(full, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True)

    def run(self, command: Sequence[str], environment: Mapping[str, str] | None = None, user: str = "") -> tuple[int, str]:
        """Exit status and output of a program."""
        process = self.start(command, environment, user)
        output, _ = process.communicate()
        return process.returncode, output


def stop(process: subprocess.Popen[str], grace_s: float = 40.0) -> None:
    """End a program as ``docker stop`` does."""
    if process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGTERM)
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def build(root: BareRoot, dockerfile: Path, context: Context, arguments: Mapping[str, str]) -> None:
    """Carry out the instructions.

    Raises:
        RuntimeError: a RUN failed; carries what it printed.
    """
    arguments = dict(arguments)
    for one in instructions(dockerfile.read_text()):
        values = {**arguments, **root.environment}
        match one.word:
            case "FROM":
                _start_from_debian(root)
            case "ARG":
                arguments = {**one.pairs(values), **arguments}
            case "ENV":
                root.environment.update(one.pairs(values))
            case "RUN":
                _run_line(root, one.rest, arguments)
            case "COPY":
                _copy(root, one, context)
            case "WORKDIR":
                root.folder = one.rest.strip()
                _inside(root, root.folder).mkdir(parents=True, exist_ok=True)
            case "USER":
                root.user = one.rest.strip()
            case "HEALTHCHECK":
                root.health = one.command
            case "CMD":
                root.command = one.command


def _start_from_debian(root: BareRoot) -> None:
    shutil.rmtree(root.path, ignore_errors=True)
    root.path.parent.mkdir(parents=True, exist_ok=True)
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", "bookworm", str(root.path)]
    subprocess.run(command, check=True)
    shutil.copyfile("/etc/resolv.conf", root.path / "etc" / "resolv.conf")
    _run_line(root, f"python3.11 -m venv /usr/local && pip install --no-cache-dir {PIP}", {})


def _run_line(root: BareRoot, line: str, arguments: Mapping[str, str]) -> None:
    pip, files = pip_of_this_machine()
    for file in files:
        _make_place(root, file)
    binds = {file: str(file) for file in files}
    print(f"RUN {line[:120]}", flush=True)
    process = root.start(["sh", "-c", line], {**pip, **arguments}, binds=binds)
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"RUN {line} ended with {process.returncode}:\n{output[-4000:]}")


def pip_of_this_machine() -> tuple[dict[str, str], list[Path]]:
    """How pip is told here where packages are, as variables, and the files and folders that these name."""
    listed = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=False).stdout
    variables, files = {}, []
    for line in listed.splitlines():
        name, _, quoted = line.partition("=")
        value = " ".join(shlex.split(quoted))
        variables[f"PIP_{name.rpartition('.')[2].replace('-', '_').upper()}"] = value
        # An index's pages point at files beside its folder.
        files += [Path(part.removeprefix("file://")).parent if part.startswith("file://") else Path(part) for part in value.split()]
    return variables, list(dict.fromkeys(path for path in files if path.is_absolute() and path.exists()))


def _make_place(root: BareRoot, file: Path) -> None:
    place = _inside(root, str(file))
    if file.is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()


def _copy(root: BareRoot, one: Instruction, context: Context) -> None:
    *sources, target = one.rest.split()
    for source in sources:
        is_folder = (context.root / source).is_dir()
        for file in context.files(source):
            kept = file.relative_to(source) if is_folder else Path(file.name)
            place = _inside(root, os.path.join(root.folder, target)) / kept
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(context.root / file, place)


def _inside(root: BareRoot, path: str) -> Path:
    return root.path / path.lstrip("/")
