"""Options of images and their preprocessing that ``datasets upload`` and ``search`` share."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import typer

from paretopress.cli.choices import Augmentation, Crop, Interpolation, Layout, Resize, ValueRange

PANEL = "Data"


def one_of(kind: type[Enum], what: str, panel: str | None = None) -> Any:
    """An option whose words stand in its help, where they can be wrapped, instead of before it."""
    words = ", ".join(str(choice.value) for choice in kind)
    return typer.Option(help=f"{what}: {words}", metavar="WORD", rich_help_panel=panel)


MeanOption = Annotated[str, typer.Option(help="per channel, with commas, in units of --range", rich_help_panel=PANEL)]
StdOption = Annotated[str, typer.Option(help="per channel, with commas, in units of --range", rich_help_panel=PANEL)]
RangeOption = Annotated[ValueRange, one_of(ValueRange, "what 0..255 becomes first", PANEL)]
LayoutOption = Annotated[Layout, one_of(Layout, "axes of uploaded arrays", PANEL)]
ResizeOption = Annotated[Resize, one_of(Resize, "how images are brought to size", PANEL)]
ResizeSizeOption = Annotated[int, typer.Option(help="length of the shortest side; 0 = the crop's", rich_help_panel=PANEL)]
CropOption = Annotated[Crop, one_of(Crop, "what is cut off after resizing", PANEL)]
InterpolationOption = Annotated[Interpolation, one_of(Interpolation, "how pixels are interpolated", PANEL)]
AugmentationOption = Annotated[Augmentation, one_of(Augmentation, "how training images are varied", PANEL)]
SkipBadOption = Annotated[bool, typer.Option("--skip-bad", help="leave unreadable images out", rich_help_panel=PANEL)]
ClassNamesOption = Annotated[
    str,
    typer.Option(help="classes in the order of the model's outputs: a,b,c or @file with one a line", rich_help_panel=PANEL),
]
