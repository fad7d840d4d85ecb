from __future__ import annotations

from itertools import islice

import numpy as np

from hw_models.catalogue import neighbour_coefficients_ns
from hw_models.kernels import FEATURES, kernels
from hw_models.predictor import Predictor
from hw_models.roofline import fit_roofline, summed_work
from hw_models.sampling import sample_networks
from hw_models.targets import get_target

TARGET = get_target("cpu-ort-1t")


def test_the_measured_machine_knows_the_usual_kernels() -> None:
    known = neighbour_coefficients_ns("onnxruntime")
    assert {"convkxk.fp32.blocked", "convkxk.int8.direct", "depthwise.fp32.blocked", "linear.fp32.plain"} <= set(known)
    assert all(len(row) == len(FEATURES) for row in known.values())


def test_other_runtimes_have_no_neighbour() -> None:
    assert neighbour_coefficients_ns("abacus") == {}


def test_a_neighbour_makes_a_few_networks_enough() -> None:
    """A machine half as fast as the measured one, with its own habits, seen through ten networks."""
    generator = np.random.default_rng(0)
    neighbour = neighbour_coefficients_ns("onnxruntime")
    own = {s: tuple(2 * c * float(generator.uniform(0.8, 1.25)) for c in row) for s, row in neighbour.items()}
    truth = Predictor(TARGET, own, 5000.0)
    graphs = [network.graph for network in islice(sample_networks(("fp32", "int8"), 11), 60)]
    works = [summed_work(kernels(graph, TARGET)) for graph in graphs]
    latencies = [truth.predict(graph).value_ms for graph in graphs]

    def error(prior: object) -> float:
        fit = fit_roofline(works[:10], latencies[:10], 1, prior)  # type: ignore[arg-type]
        fitted = Predictor(TARGET, fit.coefficients_ns, fit.run_overhead_ns)
        return float(np.mean([abs(fitted.predict(g).value_ms / ms - 1) for g, ms in zip(graphs[10:], latencies[10:], strict=True)]))

    assert error(neighbour) < 0.8 * error(None)
