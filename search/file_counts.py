"""MACs and parameters of an exported file as stored measurements; where they do not follow from the file, the network's own."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from search.attempts import reason_of
from search.describe import network_macs
from search.protocols import CandidateRecord, Measurement
from techniques.network import Network
from techniques.onnx_counts import count_file

_LOG = logging.getLogger("paretopress.search")


def file_counts(onnx: bytes, network: Network) -> dict[str, Measurement]:
    """``macs`` of one image and ``parameters``: counted on the file or, where that cannot be done, predicted from its network.

    A count decides about no network, so that nothing which goes wrong with it may end a search.
    """
    try:
        counts = count_file(onnx)
    except Exception as error:
        _LOG.warning("counted on the network instead of its file: %s", reason_of(error), exc_info=True)
        return {
            "macs": Measurement(network_macs(network), "predicted"),
            "parameters": Measurement(network.parameter_count(), "predicted"),
        }
    return {"macs": Measurement(counts.macs, "counted"), "parameters": Measurement(counts.parameters, "counted")}


def count_notes(records: Iterable[CandidateRecord]) -> list[str]:
    """What a report must say of exported networks whose counts are not those of their files."""
    found = [r.candidate_id for r in records if "parameters" in r.measurements and r.measurements["parameters"].source != "counted"]
    if not found:
        return []
    names = ", ".join(dict.fromkeys(found))
    return [f"MACs and parameters of {names} are those of the network: they do not follow from the exported file"]
