"""Networks by name: torchvision architectures, and timm's as ``timm/NAME``, with weights from a safetensors file.

Nothing is ever downloaded; code comes from the installed libraries, weights from the file, and both must fit exactly.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from techniques import lift
from techniques.errors import UnsupportedNetworkError
from techniques.network import Network

_SHOWN = 5


def build(
    name: str,
    num_classes: int,
    *,
    input_shape: tuple[int, int, int],
    in_channels: int | None = None,
    safetensors_path: Path | None = None,
) -> Network:
    """Build an architecture, load its weights strictly, and lift it.

    Args:
        name: a torchvision classification model (``resnet18``) or ``timm/NAME``.
        num_classes: outputs of the classifier.
        input_shape: ``(channels, height, width)``.
        in_channels: channels of the first convolution where they differ from 3 (timm only); default the input's.
        safetensors_path: weights; None leaves them random.

    Raises:
        UnsupportedNetworkError: unknown name, or weights that do not fit; the message names the tensors.
    """
    channels = in_channels if in_channels is not None else input_shape[0]
    if channels != input_shape[0]:
        raise UnsupportedNetworkError(f"in_channels {channels} contradicts the input shape {input_shape}")
    module = (
        _timm(name.removeprefix("timm/"), num_classes, channels) if name.startswith("timm/") else _torchvision(name, num_classes)
    )
    if not name.startswith("timm/") and channels != 3:
        raise UnsupportedNetworkError(f"torchvision's {name!r} takes 3 channels, not {channels}; timm/NAME takes any number")
    if safetensors_path is not None:
        load_weights(module, safetensors_path)
    return lift.from_module(module, input_shape)


def _torchvision(name: str, num_classes: int) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UnsupportedNetworkError(f"unknown architecture {name!r}; torchvision has {known}; timm's are written timm/NAME")
    options: dict[str, Any] = {"weights": None, "num_classes": num_classes}
    if "init_weights" in inspect.signature(models.get_model_builder(name)).parameters or name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    module: nn.Module = models.get_model(name, **options)
    return module.eval()


def _timm(name: str, num_classes: int, in_channels: int) -> nn.Module:
    import timm

    if name not in timm.list_models():
        near = timm.list_models(f"*{name[:8]}*")[:20]
        raise UnsupportedNetworkError(f"unknown timm architecture {name!r}; similar: {near}")
    module: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_channels)
    return module.eval()


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a safetensors file; every tensor must be expected, present, and of the right shape.

    Raises:
        UnsupportedNetworkError: naming missing, unexpected and mismatched tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UnsupportedNetworkError(f"{path.name}: not a safetensors file ({error})") from None
    expected = module.state_dict()
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    problems = {
        "missing": sorted(set(expected) - set(found) - optional),
        "unexpected": sorted(set(found) - set(expected)),
        "of another shape": [
            f"{name} {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in sorted(set(found) & set(expected))
            if found[name].shape != expected[name].shape
        ],
    }
    said = [
        f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''})"
        for kind, names in problems.items()
        if names
    ]
    if said:
        raise UnsupportedNetworkError(f"{path.name} does not fit {type(module).__name__}: tensors {'; '.join(said)}")
    module.load_state_dict({**{name: expected[name] for name in optional}, **found})
