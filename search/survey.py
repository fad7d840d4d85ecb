"""What the network offers: its options, what each costs and saves, what is left alone, and what is out of reach. Found once."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch

from search.attempts import STEP_LIMIT_S, Attempts, attempt, supervised
from search.composition import Composition
from search.environment import SearchEnvironment
from search.errors import OptionSkippedError, SearchError, TimeLimitError
from search.options import PROOF_S, collect_options
from search.places import PHASE as PLACES_PHASE
from search.places import Places, find_places
from search.protocols import CandidateStore, Event
from search.reach import Reach, find_reach
from search.sensitivity import VERSION, Sensitivity, measure_sensitivity
from search.setup import Setup
from search.shares import SENSITIVITY_SHARE
from search.space import NONE, Policy
from techniques import registry
from techniques.base import Transform

IMAGES = 256
TECHNIQUES_PHASE = "techniques"
MAX_CACHED = 256
"""Sensitivities of earlier searches that are kept."""


def find_sensitivity(setup: Setup, environment: SearchEnvironment, ends_at: float) -> Sensitivity:
    """The sensitivities: from the store, from an earlier search of the same content, or measured now.

    Args:
        ends_at: of `time.monotonic`: when the wall time is up.
    """
    stored = environment.store.phase("sensitivity")
    if stored is not None and stored["version"] == VERSION:
        return Sensitivity.from_json(stored)
    cache = environment.work_dir.parent / "sensitivity" / f"{_content_key(setup, environment)}.json"
    if cache.exists():
        sensitivity = Sensitivity.from_json(json.loads(cache.read_text()))
    else:
        sensitivity = _measure(setup, environment, ends_at)
        if time.monotonic() > ends_at:
            return sensitivity  # cut short: neither for another search nor for this one, should it be extended
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = cache.with_suffix(".partial")
        partial.write_text(json.dumps(sensitivity.to_json()))
        partial.replace(cache)
        for stale in sorted(cache.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-MAX_CACHED]:
            stale.unlink(missing_ok=True)
    environment.store.save_phase("sensitivity", sensitivity.to_json())
    environment.store.append(Event("sensitivity", f"{len(sensitivity.options)} options, {len(sensitivity.skipped)} skipped"))
    return sensitivity


def tell_places(setup: Setup, sensitivity: Sensitivity, environment: SearchEnvironment, ends_at: float = math.inf) -> None:
    """Find out what is left alone and why, once, and tell it; no search ends for it."""
    store = environment.store
    if store.phase(PLACES_PHASE) is not None:
        return
    network, context = setup.original.network, setup.context

    def find() -> Places:
        reasons = {place: why for one in transforms for place, why in one.left_alone(network, context).items()}
        return find_places(network, context, sensitivity, reasons, setup.techniques)

    # What could not be found out before is not waited for again: its reason is known.
    asked = [registry.get(name) for name in setup.techniques if name not in sensitivity.skipped]
    transforms = [technique for technique in asked if isinstance(technique, Transform)]
    try:
        # Each takes as long as finding its places does.
        limit_s = min(len(transforms) * (STEP_LIMIT_S + PROOF_S), max(ends_at - time.monotonic(), 0.0))
        places = attempt("places", find, store.should_stop, limit_s)
    except OptionSkippedError as error:
        store.append(Event("warning", f"what is left alone could not be found out: {error}"))
        return
    store.save_phase(PLACES_PHASE, places.to_json())
    store.append(Event("sensitivity", places.sentence, {"places": places.sentence}))


def tell_techniques(setup: Setup, sensitivity: Sensitivity, store: CandidateStore) -> None:
    """Write down for the report what each technique can do here, or why nothing."""
    found = []
    for technique in (registry.get(name) for name in setup.techniques):
        options = [option for option in sensitivity.offered.options if option.technique == technique.name]
        works = bool(options) or not isinstance(technique, Transform)
        reason = sensitivity.skipped.get(technique.name, "" if works else "it finds nothing to do on this network")
        whole_ms = [sensitivity.whole.get(option.option_id, {}).get("latency_ms", 0.0) for option in options]
        saves_ms = sum(sensitivity.savings("latency_ms", technique.name).values()) + max(whole_ms, default=0.0)
        words = {"technique": technique.name, "stage": technique.stage, "cites": technique.cites, "reason": reason}
        found.append({**words, "options": len(options), "saves_at_most_ms": saves_ms})
    store.save_phase(TECHNIQUES_PHASE, {"techniques": found})


def _measure(setup: Setup, environment: SearchEnvironment, ends_at: float) -> Sensitivity:
    view = setup.original.data.split("validation")
    rng = np.random.default_rng(setup.spec.effort.seed)
    chosen = np.sort(rng.permutation(len(view))[:IMAGES])
    attempts = Attempts(environment.store, ends_at=ends_at)
    offered = collect_options(setup.original.network, setup.context, setup.techniques, attempts)
    limit_s = setup.spec.effort.max_wall_time_s * SENSITIVITY_SHARE
    torch.manual_seed(setup.spec.effort.seed)
    images = view.images(chosen)
    network = setup.original.network
    try:
        return measure_sensitivity(network, offered, images, setup.context, setup.pricer, attempts, limit_s)
    except OptionSkippedError as error:
        if time.monotonic() < ends_at:
            raise
        words = f"the wall time of {setup.spec.effort.max_wall_time_s:.0f} s was up before a candidate could be tried"
        raise SearchError(f"{words}: baseline and sensitivity took it. Allow more time") from error


def _content_key(setup: Setup, environment: SearchEnvironment) -> str:
    spec = setup.spec
    facts = [
        spec.model_sha256,
        spec.dataset_sha256,
        spec.target,
        spec.budget.batch_size,
        spec.scopes,
        setup.techniques,
        setup.reading.task,
    ]
    facts += [spec.effort.seed, spec.effort.max_wall_time_s, environment.predictor_json]
    facts += [[t.name, t.version] for t in registry.all_techniques()]
    return hashlib.sha256(json.dumps([VERSION, code_digest(), *facts]).encode()).hexdigest()


@functools.cache
def code_digest() -> str:
    """Of the source of all that sensitivities follow from: what is offered, at which strengths, and what it costs."""
    root, digest = Path(__file__).parent.parent, hashlib.sha256()
    for path in sorted(path for package in ("techniques", "search", "hw_models") for path in (root / package).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def reach_of(setup: Setup, sensitivity: Sensitivity, environment: SearchEnvironment, ends_at: float) -> Reach:
    """The lowest prices that the allowed techniques can give this network; nothing is known where the time is up before."""
    if time.monotonic() > ends_at:
        return Reach({})
    composition = Composition.of(setup.pricer, setup.context, sensitivity.pinned)
    others = {option.axis for option in sensitivity.pinned if option.axis != "bits"}
    strongest = {axis: max((o for o in sensitivity.pinned if o.axis == axis), key=lambda o: o.strength) for axis in others}
    ends = [(NONE, option.option_id) for option in strongest.values()]
    policies = [
        Policy({"bits": bits, **dict(zip(strongest, chosen, strict=True))})
        for bits in sensitivity.saved
        for chosen in product(*ends)
    ]

    def find() -> Reach:
        price, stop = setup.pricer.price, environment.store.should_stop
        return find_reach(sensitivity.options, policies, composition.recipe, price, stop)

    try:
        return supervised(find, environment.store.should_stop, max(ends_at - time.monotonic(), 0.0))
    except TimeLimitError:
        return Reach({})
