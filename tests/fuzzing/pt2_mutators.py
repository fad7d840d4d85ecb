"""``torch.export`` archives with payloads in every entry and hostile values in every text."""

from __future__ import annotations

import json
import zipfile
from random import Random
from typing import Any

from tests.fuzzing import json_mutators
from tests.fuzzing.corpus import Corpus, pt2_archive, zipped
from tests.fuzzing.payloads import code, pickles, torch_saved

PROGRAM = "models/model.json"
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_PLACES = (
    "data/sample_inputs/model.pt", "data/weights/weight_0", "data/weights/model.pt", "data/constants/tensor_0",
    "data/constants/model.pt",
    "data/constants/custom_obj_0", "data/constants/opaque_obj_0", "extra/network.json", "extra/payload.pkl", "data.pkl",
    "constants.pkl",
    PROGRAM, *CONFIGS, "archive_format", "byteorder", ".data/serialization_id", "code/__torch__.py",
    "data/aotinductor/model/model.so",
)  # fmt: skip
_TARGETS = (
    "torch.os.system", "torch.hub.load", "torch.ops.aten.from_file.default", "torch.ops.aten.set_.source_Storage", "builtins.eval",
    "torch.ops.aten.as_strided.default", "torch.ops.aten._reshape_alias.default", "torch.ops.aten.full.default",
    "torch.ops.aten.relu.out",
    "torch.ops.aten.repeat.default", "torch.ops.aten.expand.default", "torch.ops.aten.sym_size.int",
    "torch.ops.aten.empty.memory_format",
    "torch.ops.aten._nested_view_from_buffer.default", "torch.ops.aten.bincount.default", "torch.ops.higher_order.cond", "#x:y",
    "torch.ops.aten.linalg_inv.default", "torch.ops.aten.embedding.default", "torch.ops.aten.index_put_.default",
    "torch.ops.aten.softmax.int",
)  # fmt: skip


def payload_entry(random: Random, corpus: Corpus) -> bytes:
    """A pickle in one of the entries, bare or as ``torch.save`` packs it."""
    payload = random.choice(pickles(corpus.outside))
    content = torch_saved(payload) if random.random() < 0.5 else payload
    return pt2_archive({**corpus.pt2, random.choice(_PLACES): content})


def pickled_tensor(random: Random, corpus: Corpus) -> bytes:
    """A tensor that says it is pickled, and is."""
    name = random.choice(CONFIGS)
    config = json.loads(corpus.pt2[name])
    folder = name.rpartition("/")[0]
    file = random.choice(("weight_0", "tensor_0", "custom_obj_0", "opaque_obj_0", "../../../etc/passwd", "weight_1"))
    payload = {
        "path_name": file,
        "is_param": False,
        "use_pickle": random.choice((True, False, 1, "yes", None)),
        "tensor_meta": None,
    }
    target = random.choice([*config["config"], "new.tensor", "__class__"])
    config["config"][target] = {**config["config"].get(target, {}), **payload}
    content = torch_saved(random.choice(pickles(corpus.outside)))
    return pt2_archive({**corpus.pt2, name: json.dumps(config).encode(), f"{folder}/{file}": content})


def wrong_program(random: Random, corpus: Corpus) -> bytes:
    """Hostile values anywhere in the program."""
    return _changed(random, corpus, PROGRAM)


def wrong_config(random: Random, corpus: Corpus) -> bytes:
    """Hostile values anywhere in a payload configuration."""
    return _changed(random, corpus, random.choice(CONFIGS))


def wrong_target(random: Random, corpus: Corpus) -> bytes:
    """A node that calls something else."""
    program = json.loads(corpus.pt2[PROGRAM])
    node = random.choice(program["graph_module"]["graph"]["nodes"])
    node["target"] = random.choice((*_TARGETS, *code(corpus.outside)))
    return pt2_archive({**corpus.pt2, PROGRAM: json.dumps(program).encode()})


def code_in_text(random: Random, corpus: Corpus) -> bytes:
    """An expression in the place of any text of the program."""
    program = json.loads(corpus.pt2[PROGRAM])
    texts = list(_texts(program))
    for holder, key in random.sample(texts, min(len(texts), random.choice((1, 1, 5)))):
        holder[key] = random.choice(code(corpus.outside))
    return pt2_archive({**corpus.pt2, PROGRAM: json.dumps(program).encode()})


def wrong_version(random: Random, corpus: Corpus) -> bytes:
    """A schema, an opset or a torch that does not exist."""
    program = json.loads(corpus.pt2[PROGRAM])
    key = random.choice(("schema_version", "opset_version", "torch_version", "verifiers", "range_constraints", "guards_code"))
    program[key] = random.choice(json_mutators.hostile_values(code(corpus.outside)))
    if random.random() < 0.4:
        program["schema_version"] = {"major": random.choice((0, 7, 999, -1)), "minor": random.choice((0, 999))}
    return pt2_archive({**corpus.pt2, PROGRAM: json.dumps(program).encode()})


def large_graph(random: Random, corpus: Corpus) -> bytes:
    """More nodes than are taken, or sizes that no memory has."""
    program = json.loads(corpus.pt2[PROGRAM])
    graph = program["graph_module"]["graph"]
    if random.random() < 0.1:
        graph["nodes"] *= 50_001 // len(graph["nodes"]) + 1
    else:
        for meta in random.sample(list(graph["tensor_values"].values()), 2):
            for size in meta["sizes"]:
                if "as_int" in size:
                    size["as_int"] = random.choice((0, -1, 2**20, 2**40, 10**30))
    return pt2_archive({**corpus.pt2, PROGRAM: json.dumps(program).encode()})


def lying_tensor(random: Random, corpus: Corpus) -> bytes:
    """A weight of another size, stride, place or type than its bytes have."""
    config = json.loads(corpus.pt2[CONFIGS[0]])
    meta = random.choice(list(config["config"].values()))["tensor_meta"]
    key = random.choice(("sizes", "strides", "storage_offset", "dtype", "layout", "device"))
    number = random.choice((-1, 0, 1, 2**20, 2**62, 10**30))
    changes: dict[str, Any] = {
        "sizes": [{"as_int": number}] * len(meta["sizes"]),
        "strides": [{"as_int": number}] * len(meta["strides"]),
        "storage_offset": {"as_int": number},
        "dtype": random.choice((0, 8, 99, -1)),
        "layout": random.choice((0, 1, 9)),
        "device": {"type": random.choice(("cuda", "meta", "x")), "index": None},
    }
    meta[key] = changes[key]
    return pt2_archive({**corpus.pt2, CONFIGS[0]: json.dumps(config).encode()})


def wrong_archive(random: Random, corpus: Corpus) -> bytes:
    """Entries missing, packed, or under other folders."""
    entries = dict(corpus.pt2)
    action = random.randrange(4)
    if action == 0:
        del entries[random.choice(list(entries))]
    elif action == 1:
        return zipped(entries, zipfile.ZIP_DEFLATED, "archive/")
    elif action == 2:
        return zipped(entries, zipfile.ZIP_STORED, random.choice(("", "../", "/", "a/b/")))
    else:
        entries[
            random.choice(("../../evil", "data/weights/../../x", "models/second.json", "x" * 30_000, "data/weights/weight_x"))
        ] = b"x"
    return pt2_archive(entries)


def _changed(random: Random, corpus: Corpus, name: str) -> bytes:
    values = json_mutators.hostile_values(code(corpus.outside))
    document = json_mutators.change(random, json.loads(corpus.pt2[name]), values, random.choice((1, 1, 3)))
    return pt2_archive({**corpus.pt2, name: json.dumps(document).encode()})


def _texts(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        if isinstance(child, str):
            yield value, key
        yield from _texts(child)
