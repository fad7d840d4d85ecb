"""What a search is, in a tracker's words: flat parameters that can be filtered by, and a description for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from search.spec import SearchSpec

TITLE = "title"
_SHOWN = ("title", "model", "dataset", "target", "latencies", "metric", "preference")


@dataclass(frozen=True)
class SearchOrigin:
    """What the request called things: a title for people, which may be empty, and the resource names of model and dataset."""

    title: str = ""
    model: str = ""
    dataset: str = ""


def search_parameters(spec: SearchSpec, origin: SearchOrigin) -> dict[str, str]:
    """Everything that was asked for; limits that are not set are left out."""
    parts = {"budget": asdict(spec.budget), "effort": asdict(spec.effort)}
    flat = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items() if value is not None}
    if spec.budget.size_bytes is None:
        del flat["budget.size_name"]
    named = {TITLE: origin.title, "model": origin.model, "dataset": origin.dataset}
    facts = {"target": spec.target, "metric": spec.metric, "preference": spec.preference}
    chosen = {"expected_accuracy": spec.expected_accuracy, "techniques": ", ".join(spec.techniques)}
    given = {name: value for name, value in {**named, **chosen}.items() if value}
    return {name: str(value) for name, value in {**facts, **flat, **given}.items()} | {"spec": spec.to_json()}


def search_description(parameters: Mapping[str, str]) -> str:
    """Markdown: a line for each thing, the limits together; empty where nothing is known."""
    lines = [f"- {name}: {parameters[name]}" for name in _SHOWN if name in parameters]
    for part in ("budget", "effort"):
        values = [f"{n.partition('.')[2]} {v}" for n, v in parameters.items() if n.startswith(f"{part}.")]
        if values:
            lines.append(f"- {part}: {', '.join(values)}")
    return "\n".join(lines)
