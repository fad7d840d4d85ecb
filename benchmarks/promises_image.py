"""The image of ``deploy/Dockerfile``, built from its own lines in a bare root and used in it, as the image's user and as another.

Needs root and Debian's ``mmdebstrap`` (``apt-get install mmdebstrap``); takes about 12 GB in ``/var/tmp`` while it runs.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.bare_root import BareRoot, build, stop
from benchmarks.dockerfile import Context, instructions
from benchmarks.harness import ROOT, Check, Results, Row
from examples import digits
from tests.service.digits_search import make_inputs
from tests.service.ports import free_port
from tests.waiting import wait_until

NAME = "promises_image"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
WITH_CUDA = "https://pypi.org/simple"
STRANGER = "4242"
CLI = ("targets list", "search --validate-only", "search", "searches download")
CELLS = ("size", "health", *CLI, "user and folder of the host", "pages")
_SIZES = """
import importlib.metadata as m, json
cuda = [d for d in m.distributions() if d.name.startswith(("nvidia-", "cuda-", "triton"))]
print(json.dumps(sum(f.size or 0 for d in cuda for f in d.files or ())))
"""
_SIZE_GATE_GB = 3.0


def run(results: Results) -> None:
    """Lint; build once for all cells that are missing; leave nothing behind."""
    results.cell("hadolint", lint, again=True)
    if all(results.find(cell) for cell in CELLS):
        return
    with tempfile.TemporaryDirectory(prefix="paretopress-image-", dir="/var/tmp") as folder:
        root = BareRoot(Path(folder) / "root")
        results.cell("size", lambda: build_and_weigh(root), again=True)
        place_inputs(root)
        use(root, results)
        results.cell("user and folder of the host", lambda: as_stranger(root, Path(folder) / "data"), again=True)
        results.cell("pages", lambda: pages(root), again=True)


def lint() -> Row:
    """hadolint, without exceptions but those that the file justifies."""
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([program, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    return {"status": done.returncode, "said": (done.stdout + done.stderr).splitlines()}


def build_and_weigh(root: BareRoot) -> Row:
    """Build; with the file's own index of torch where it answers, else with PyPI's wheel and CUDA, which is weighed apart."""
    own = next(one for one in instructions(DOCKERFILE.read_text()) if one.word == "ARG").pairs({})["TORCH_INDEX"]
    index = own if _answers(own) else WITH_CUDA
    began = time.monotonic()
    build(root, DOCKERFILE, Context.of(ROOT), {"TORCH_INDEX": index})
    seconds = time.monotonic() - began
    status, cuda = root.run(["python", "-c", _SIZES])
    if status:
        raise RuntimeError(cuda)
    whole, parts = size_of(root.path), int(cuda)
    return {
        "build_s": round(seconds, 1),
        "torch_index": index,
        "note": "" if index == own else f"{own} is not reached here: CUDA's packages are not counted, torch's own CUDA code is",
        "whole_gb": round(whole / 1e9, 3),
        "cuda_gb": round(parts / 1e9, 3),
        "size_gb": round((whole - parts) / 1e9, 3),
    }


def _answers(index: str) -> bool:
    try:
        with urllib.request.urlopen(f"{index}/torch/", timeout=10):
            return True
    except (OSError, urllib.error.URLError):
        return False


def size_of(folder: Path) -> int:
    """Bytes of all files, hard links once."""
    seen: dict[int, int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            found = os.lstat(os.path.join(place, name))
            seen[found.st_ino] = found.st_size
    return sum(seen.values())


def place_inputs(root: BareRoot) -> None:
    """A trained ResNet-8 and scikit-learn's digits, where ``docker cp`` would put them."""
    folder = root.path / "srv"
    make_inputs(folder)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)


@contextlib.contextmanager
def serving(
    root: BareRoot, variables: Mapping[str, str] | None = None, user: str = "", data: Path | None = None
) -> Iterator[dict[str, str]]:
    """The image's CMD; yields the container's environment once its HEALTHCHECK is content."""
    environment = {
        "PARETOPRESS_PORT": str(free_port()),
        "PARETOPRESS_ALLOW_INSECURE": "true",
        "PARETOPRESS_MEASURE_LIMIT_S": "10",
        **(variables or {}),
    }
    environment["PARETOPRESS_ADDRESS"] = f"127.0.0.1:{environment['PARETOPRESS_PORT']}"
    log = root.path.with_name("server.log")
    process = root.start(root.command, environment, user, {data: "/data"} if data else None, log)
    try:
        wait_until(lambda: process.poll() is not None or root.run(root.health, environment, user)[0] == 0, 180)
        if process.poll() is not None:
            raise RuntimeError(log.read_text()[-2000:])
        yield environment
    finally:
        stop(process)


def use(root: BareRoot, results: Results) -> None:
    """The commands of a first user, inside, as the image's user."""
    before = root.run(root.health)
    began = time.monotonic()
    with serving(root) as environment:
        seconds = round(time.monotonic() - began, 1)
        healthy = root.run(root.health, environment)
        row = {"status": healthy[0], "status_before": before[0], "said": healthy[1].splitlines(), "seconds": seconds}
        results.cell("health", lambda: row, again=True)
        for cell, command in zip(CLI, _commands(), strict=True):
            results.cell(cell, lambda command=command: _timed(root, command, environment), again=True)  # type: ignore[misc]


def _commands() -> Iterator[Sequence[str]]:
    search = ["search", "/srv/digits.pt2", "/srv/digits.npz", "--mean", str(digits.MEAN), "--std", str(digits.STD)]
    search += ["--latency-ms", "50", "--max-drop", "20", "--trials", "3", "--epochs", "0"]
    yield ["targets", "list"]
    yield [*search, "--validate-only"]
    yield [*search, "--id", "small"]
    yield ["searches", "download", "small", "--out", "/tmp/small"]


def _timed(root: BareRoot, command: Sequence[str], environment: Mapping[str, str], user: str = "") -> Row:
    began = time.monotonic()
    status, said = root.run(["paretopress", *command], environment, user)
    return {"status": status, "seconds": round(time.monotonic() - began, 1), "said": said.splitlines()[-12:]}


def as_stranger(root: BareRoot, data: Path) -> Row:
    """``-v data:/data --user``: a user whom the image does not know, and a folder that is only theirs."""
    data.mkdir(mode=0o700)
    refused = root.run(root.command, {"PARETOPRESS_ALLOW_INSECURE": "true"}, STRANGER)
    os.chown(data, int(STRANGER), int(STRANGER))
    with serving(root, user=STRANGER, data=data) as environment:
        row = _timed(root, list(_commands())[1], environment, STRANGER)
    return {
        **row,
        "status_without_folder": refused[0],
        "said_without_folder": refused[1].splitlines()[-1:],
        "kept": (data / "paretopress.db").exists(),
    }


def pages(root: BareRoot) -> Row:
    """MLflow and metrics as published ports reach them: from another address than loopback, under the name localhost."""
    ports = {"mlflow": free_port(), "metrics": free_port()}
    variables = {"PARETOPRESS_MLFLOW_UI": "true"}
    for name, port in ports.items():
        variables |= {f"PARETOPRESS_{name.upper()}_HOST": "0.0.0.0", f"PARETOPRESS_{name.upper()}_PORT": str(port)}
    outside = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()[0]
    paths = {"mlflow": "/", "metrics": "/metrics"}
    with serving(root, variables):
        wait_until(lambda: all(_fetch(outside, ports[name], path) == 200 for name, path in paths.items()), 120)
        return {name: _fetch(outside, ports[name], path) for name, path in paths.items()}


def _fetch(host: str, port: int, path: str) -> int:
    request = urllib.request.Request(f"http://{host}:{port}{path}", headers={"Host": f"localhost:{port}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def checks(rows: Sequence[Row]) -> list[Check]:
    """Must show 5."""
    by_cell = {row["cell"]: row for row in rows}

    def figure(cell: str, key: str) -> float | None:
        return by_cell.get(cell, {}).get(key)

    found = [Check("promises 5 hadolint", figure("hadolint", "status"), "== 0")]
    found += [Check(f"promises 5 {cell}", figure(cell, "status"), "== 0") for cell in ("health", *CLI)]
    found += [
        Check("promises 5 health before it serves", figure("health", "status_before"), "== 1"),
        Check("promises 5 size without CUDA, GB", figure("size", "size_gb"), f"< {_SIZE_GATE_GB:g}"),
        Check("promises 5 bind mount and --user", figure("user and folder of the host", "status"), "== 0"),
        Check("promises 5 mlflow published", figure("pages", "mlflow"), "== 200"),
        Check("promises 5 metrics published", figure("pages", "metrics"), "== 200"),
    ]
    return found
