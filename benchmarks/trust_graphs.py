"""Random networks under every technique: equal to the masked original, or not offered; nothing raises and nothing takes long.

The networks are those of `tests.techniques.random_networks`, which the tests take a hundred of. Seconds are a
processor's, so that other work beside does not count.
"""

from __future__ import annotations

import functools
import gc
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch

from benchmarks.harness import Check, Results, Row, measured_apart
from search.evaluation.file_proof import prove_file
from techniques import export
from techniques.apply import apply_recipe
from techniques.channels.channel_map import channel_map
from techniques.channels.groups import channel_groups
from techniques.channels.proof import difference, relative_difference
from techniques.context import Batch, TechniqueContext
from techniques.lift import from_module
from techniques.low_rank import decompose
from techniques.low_rank.factorization import full_ranks
from techniques.network import Network
from techniques.pruning import block_removal, structured
from techniques.recipe import Recipe, Step
from techniques.registry import get
from tests.techniques.random_networks import INPUT_SHAPE, RandomNetwork

NAME = "trust_graphs"
FREE = TechniqueContext(channel_multiple=1)
SHARES = (0.25, 0.5, 0.8)
NETWORKS = 5000
PER_CELL = 100
FILES_EVERY = 10
"""Exporting twice takes longer than all else together."""
LIMIT_S = 5.0
T = TypeVar("T")


@dataclass(frozen=True)
class Noise:
    """Seeded noise to calibrate on."""

    images: torch.Tensor = field(default_factory=lambda: torch.randn(32, *INPUT_SHAPE, generator=torch.Generator().manual_seed(2)))

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, epoch: int, batch_size: int) -> Iterator[Batch]:
        """In the given order."""
        for part in torch.split(self.images, batch_size):
            yield Batch(part)


DEALT = {"shuffle", "moved", "split"}
"""Pieces after which the shape of what follows depends on which channels are weak, which no meta network knows."""


@dataclass
class Tally:
    """What is gathered over some networks."""

    seconds: dict[str, float] = field(default_factory=dict)
    worst: dict[str, float] = field(default_factory=dict)
    raised: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def timed(self, given: RandomNetwork, name: str, work: Callable[[], T]) -> T | None:
        """Run a step, keep the longest time per step and what it raises."""
        start = time.process_time()
        try:
            return work()
        except Exception as error:  # what is raised is the finding
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{place.filename.rsplit('/', 1)[-1]}:{place.lineno}"
            self.raised.append(f"{given.seed} {given.pieces} {name}: {type(error).__name__} at {where}: {str(error)[:160]}")
            return None
        finally:
            self.seconds[name] = max(self.seconds.get(name, 0.0), time.process_time() - start)

    def add(self, name: str, count: int) -> None:
        """Count something."""
        self.counts[name] = self.counts.get(name, 0) + count

    def error(self, given: RandomNetwork, name: str, found: float) -> None:
        """Keep the worst; beyond 1e-4 it is a finding."""
        self.worst[name] = max(self.worst.get(name, 0.0), found)
        if found > 1e-4:
            self.raised.append(f"{given.seed} {given.pieces} {name}: {found:.2g} from the reference")


Trial = Callable[[Network, RandomNetwork, Tally], None]


def measure(first: int, count: int) -> Row:
    """One row for ``count`` networks; ``slowest_s`` of a step per network."""
    torch.set_num_threads(1)
    warm = RandomNetwork(first).eval()
    _float_file(from_module(warm, INPUT_SHAPE), warm, Tally())  # what is imported on first use
    tally = Tally()
    gc.freeze()  # collecting over all that was imported takes a seventh of the time
    for seed in range(first, first + count):
        try_all(seed, tally, STEPS if seed % FILES_EVERY else {**STEPS, **FILE_STEPS})
    return {
        "networks": count,
        "raised": tally.raised,
        "not_right": len(tally.raised),
        "worst_error": max(tally.worst.values(), default=0.0),
        "slowest_s": round(max(tally.seconds.values(), default=0.0), 2),
        **{f"slowest_{name}_s": round(value, 2) for name, value in tally.seconds.items()},
        **tally.counts,
    }


def try_all(seed: int, tally: Tally, steps: Mapping[str, Trial]) -> None:
    """Lift the network of this seed and try the steps on it."""
    given = RandomNetwork(seed).eval()
    network = tally.timed(given, "lift", lambda: from_module(given, INPUT_SHAPE))
    if network is None:
        return
    for name, work in steps.items():
        tally.timed(given, name, functools.partial(work, network, given, tally))


def _pruning(network: Network, given: RandomNetwork, tally: Tally) -> None:
    """Another choice of channels than the product's own proof takes, and the way that a recipe goes."""
    known, groups = channel_map(network), channel_groups(network)
    offered = structured.offered_groups(network, FREE)
    tally.add("groups", len(groups))
    tally.add("groups_not_offered", len(groups) - len(offered))
    random = np.random.default_rng(given.seed)
    removed = np.zeros(known.count, np.bool_)
    for name in offered:
        removed[structured.weakest(network, groups[name], 1 - random.choice(SHARES), random.random(known.count), FREE)] = True
    tally.error(given, "structured_pruning", difference(network, known, removed)[0])
    step = Step("structured_pruning", {"ratios": dict.fromkeys(offered, float(random.choice(SHARES)))})
    _runs(network, Recipe((step,)), priced=not DEALT & set(given.pieces))


def _runs(network: Network, recipe: Recipe, priced: bool = True) -> None:
    """Real and meta networks take the recipe to the same shapes, and the outputs keep theirs."""
    real, meta = apply_recipe(network, recipe, FREE), apply_recipe(network.to_meta(), recipe, FREE)
    with torch.no_grad():
        if real(real.example_input(3)).shape != (3, 5):
            raise AssertionError("outputs of another shape")
    shapes = [{name: tuple(p.shape) for name, p in n.graph.named_parameters()} for n in (real, meta)]
    if shapes[0].keys() != shapes[1].keys() or (priced and shapes[0] != shapes[1]):
        raise AssertionError("meta and real networks have other parameters")


def _blocks(network: Network, given: RandomNetwork, tally: Tally) -> None:
    found = block_removal.removable_blocks(network)
    wrong = block_removal.unproven_blocks(network, FREE)
    tally.add("blocks", len(found))
    tally.add("blocks_not_offered", len(wrong))
    names = [block.name for block in found if block.name not in wrong]
    _runs(network, Recipe((Step("block_removal", {"blocks": names}),)))


def _low_rank(network: Network, given: RandomNetwork, tally: Tally) -> None:
    """Full rank in every layer at once computes what the network does; half the rank runs."""
    layers = decompose.decomposable_layers(network, FREE)
    wrong = decompose.unproven_layers(network, FREE)
    tally.add("layers", len(layers))
    tally.add("layers_not_offered", len(wrong))
    offered = {name: layer for name, layer in layers.items() if name not in wrong}
    whole = network.clone()
    for name, layer in offered.items():
        decompose._replace(whole.graph, name, full_ranks(layer))
    images = network.example_input(3)
    with torch.no_grad():
        tally.error(given, "low_rank", relative_difference(whole.rebuilt()(images), network(images)))
    _runs(network, Recipe((Step("low_rank", {"ranks": dict.fromkeys(offered, 1)}),)))


def _resolution(network: Network, given: RandomNetwork, tally: Tally) -> None:
    """Where the size is free; the smaller network runs."""
    if not get("input_resolution").supports(network, FREE):
        tally.add("resized", 1)
        _runs(network, Recipe((Step("input_resolution", {"height": 6, "width": 6}),)))


def _halved(network: Network) -> Network:
    ratios = dict.fromkeys(structured.offered_groups(network, FREE), 0.5)
    return apply_recipe(network, Recipe((Step("structured_pruning", {"ratios": ratios}),)), FREE)


def _float_file(network: Network, given: RandomNetwork, tally: Tally) -> None:
    """Pruned by half, the file computes what the network does."""
    pruned = _halved(network)
    tally.error(given, "float_file", prove_file(pruned, export.to_onnx(pruned), Noise().images[:8]).error)
    tally.add("files", 1)


def _integer_file(network: Network, given: RandomNetwork, tally: Tally) -> None:
    """Pruned by half and quantised, value by value."""
    context = TechniqueContext(channel_multiple=1, calibration=Noise())
    quantised = apply_recipe(_halved(network), Recipe((Step("int8_quantization", {}),)), context)
    prove_file(quantised, export.to_onnx(quantised), Noise().images[:8])
    tally.add("files", 1)


STEPS: Mapping[str, Trial] = {
    "structured_pruning": _pruning,
    "block_removal": _blocks,
    "low_rank": _low_rank,
    "input_resolution": _resolution,
}
FILE_STEPS: Mapping[str, Trial] = {"float_file": _float_file, "integer_file": _integer_file}


def run(results: Results) -> None:
    """Measure the cells that have no row yet, and again those where something was not right."""
    for first in range(0, NETWORKS, PER_CELL):
        cell = f"networks {first} to {first + PER_CELL - 1}"
        found = results.find(cell) or {}
        again = "error" in found or found.get("not_right", 0) > 0 or found.get("slowest_s", 0) > LIMIT_S
        results.cell(cell, lambda first=first: measured_apart(measure, first, PER_CELL, limit_s=3600.0), again=again)  # type: ignore[misc]


def checks(rows: list[Row]) -> list[Check]:
    """Line 3 of "trust", except the two that `families` measures."""
    whole = [row for row in rows if "error" not in row]
    total = {key: sum(row.get(key, 0) for row in whole) for key in ("networks", "not_right", "groups", "groups_not_offered")}
    slowest = max((row["slowest_s"] for row in whole), default=None)
    return [
        Check("trust 3 random networks", total["networks"], f">= {NETWORKS}"),
        Check("trust 3 raised or unequal", total["not_right"] + len(rows) - len(whole), "<= 0"),
        Check("trust 3 worst error", max((row["worst_error"] for row in whole), default=None), "<= 1e-4"),
        Check("trust 3 slowest step, s", slowest, "<= 5"),
        Check("trust 3 share of groups offered", 1 - total["groups_not_offered"] / max(total["groups"], 1), ">= 0.95", "goal"),
    ]
