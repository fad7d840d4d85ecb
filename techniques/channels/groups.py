"""Groups of channels by name: the classes that one layer's outputs lead to, and what must be left of them."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.nn.modules.conv import _ConvNd

from techniques.channels.atoms import Ids
from techniques.channels.channel_map import ChannelMap, channel_map
from techniques.network import Network


@dataclass(frozen=True)
class ChannelGroup:
    """Classes of channels that some layer makes together.

    Attributes:
        name: the first layer in execution order whose outputs they are.
        classes: in the order of that layer's outputs.
        width: that layer's outputs per class, 0 where it differs; ``least_width`` the least of any layer.
        modules: every module that loses positions, in execution order; ``layers`` the convolutions and linears among them.
        blocks: the same classes by where they go; each value that the network computes has whole blocks of them.
    """

    name: str
    classes: Ids
    width: int
    least_width: int
    modules: tuple[str, ...]
    layers: tuple[str, ...]
    blocks: tuple[Ids, ...]


_KNOWN: weakref.WeakKeyDictionary[nn.Module, dict[str, ChannelGroup]] = weakref.WeakKeyDictionary()


def channel_groups(network: Network) -> dict[str, ChannelGroup]:
    """All groups of a network, real or meta, by name, in execution order."""
    if network.graph not in _KNOWN:
        _KNOWN[network.graph] = _find(network, channel_map(network))
    return _KNOWN[network.graph]


def _find(network: Network, known: ChannelMap) -> dict[str, ChannelGroup]:
    """A class belongs to the first layer that makes a channel of it."""
    group_of = np.full(known.count, -1)
    names: list[str] = []
    for name, outputs in known.producers.items():
        own = np.unique(outputs[outputs > 0])
        own = own[group_of[own] < 0]
        if len(own):
            group_of[own] = len(names)
            names.append(name)
    widths = _least_widths(network, known)
    signatures = _signatures(known)
    calls = list(dict.fromkeys(str(node.target) for node, _ in network.module_calls()))
    touched: dict[int, set[str]] = {}
    for (name, _), classes in known.axes.items():
        for index in np.unique(group_of[classes[classes > 0]]).tolist():
            touched.setdefault(index, set()).add(name)
    found: dict[str, ChannelGroup] = {}
    for index, name in enumerate(names):
        members = np.flatnonzero(group_of == index)
        found[name] = _group(network, name, known.producers[name], members, touched[index], calls, widths, signatures)
    return found


def _group(
    network: Network,
    name: str,
    outputs: Ids,
    members: Ids,
    touched: set[str],
    calls: list[str],
    widths: Ids,
    signatures: npt.NDArray[np.uint64],
) -> ChannelGroup:
    own = outputs[np.isin(outputs, members)]
    classes = np.array(list(dict.fromkeys(own.tolist())), np.int64)
    counts = np.unique(own, return_counts=True)[1]
    even = len(set(counts.tolist())) == 1
    modules = dict(network.graph.named_modules())
    listed = [m for m in calls if m in touched] + sorted(touched - set(calls))
    blocks = [classes[signatures[classes] == s] for s in dict.fromkeys(signatures[classes].tolist())]
    return ChannelGroup(
        name=name,
        classes=classes,
        width=int(counts[0]) if even else 0,
        least_width=int(widths[classes].min()),
        modules=tuple(listed),
        layers=tuple(m for m in listed if isinstance(modules.get(m), _ConvNd | nn.Linear)),
        blocks=tuple(blocks),
    )


def _least_widths(network: Network, known: ChannelMap) -> Ids:
    """Per class, the fewest positions that a convolution or linear loses with it."""
    least = np.full(known.count, np.iinfo(np.int64).max)
    modules = dict(network.graph.named_modules())
    for (name, _), classes in known.axes.items():
        if isinstance(modules.get(name), _ConvNd | nn.Linear):
            members, counts = np.unique(classes[classes > 0], return_counts=True)
            least[members] = np.minimum(least[members], counts)
    return least


def _signatures(known: ChannelMap) -> npt.NDArray[np.uint64]:
    """Per class, a number that is equal for classes which occur in the same layers and values, as often in each."""
    rng = np.random.default_rng(0)
    result = np.zeros(known.count, np.uint64)
    for classes in [*known.axes.values(), *(axis.classes for axis in known.nodes.values())]:
        members, counts = np.unique(classes[classes > 0], return_counts=True)
        result[members] += rng.integers(1, 2**62, dtype=np.uint64) * counts.astype(np.uint64)
    return result


def whole_parts(known: ChannelMap, group: ChannelGroup) -> list[Ids]:
    """Sets of a group's classes of which one must stay: all that some layer or value has."""
    parts: dict[bytes, Ids] = {}
    members = set(group.classes.tolist())
    for classes in [*known.axes.values(), *(axis.classes for axis in known.nodes.values())]:
        found = np.unique(classes)
        if found[0] > 0 and len(found) < len(members) and members >= set(found.tolist()):
            parts[found.tobytes()] = found
    return list(parts.values())


def reasons_left_alone(network: Network) -> Mapping[str, str]:
    """Layers none of whose channels can go, neither outputs nor inputs, with the reason."""
    known = channel_map(network)
    touched = {name for name, _ in known.axes}
    return {
        name: known.reasons.get(name, "no channel of it can go")
        for name in known.producers
        if name not in touched and not (known.producers[name] > 0).any()
    }
