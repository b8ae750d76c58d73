"""The architecture, drawn from the modules themselves."""

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from torch import Tensor, nn

from ..layers import STAGES, basic_blocks, count_parameters, stage_of, weighted_layers
from ..model import BasicBlock, OptionA
from ..observe import listening, undisturbed
from .style import PLAIN, RESIDUAL, caption, display_name, styled

WIDTH, MARGIN = 8.4, 0.85  # inches: of the figure; to the left and right of the boxes, for the arrows
PIXEL = 1 / 34  # inches that a pixel of a map is high
BOX, BLOCK_GAP, STAGE_GAP = 0.8, 0.6, 1.1  # in places; a layer takes one place
ARC = 8  # how far an arc rises above its block, in pixels of a map
OPTIONS = {"A": "option A", "B": "option B: 1x1 projection"}


@torch.no_grad()
def describe_layers(model: nn.Module) -> pd.DataFrame:
    """List a network's weighted layers, their shapes read from a forward pass of one blank 3x32x32 image.

    The pass is in evaluation mode and leaves the network as it was.

    Args:
        model: a network of :func:`resnet56.model.build_model`.

    Returns:
        A row per layer of :func:`resnet56.layers.weighted_layers`, from input to output. Columns: ``depth`` (1 for the
        first), ``layer`` (name), ``stage`` (``stem``, ``layer1`` to ``layer3``, ``head``), ``block`` (such as
        ``"layer1.0"``, ``""`` outside the blocks), ``kind`` (``"conv 3x3"`` or ``"linear"``), ``channels`` (of the
        output), ``size`` (side of the output's map in pixels, 1 for the linear layer), ``stride`` (1 for the linear
        layer), ``parameters`` (of the layer's own weight and bias) and ``shortcut``: at the last layer of a residual
        block ``"identity"``, ``"A"`` or ``"B"`` (He et al. 2015, section 3.3), ``""`` at all other layers.

    Raises:
        InputError: if the network is of another kind.
    """
    layers, blocks = weighted_layers(model), basic_blocks(model)
    shapes: dict[nn.Module, torch.Size] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        shapes[module] = output.shape

    with undisturbed(model, training=False), listening([module for _, module in layers], note):
        model(next(model.parameters()).new_zeros(1, 3, 32, 32))
    rows = []
    for depth, (name, module) in enumerate(layers, start=1):
        block, shape = name.rpartition(".")[0], shapes[module]
        convolution = isinstance(module, nn.Conv2d)
        rows.append(
            {
                "depth": depth,
                "layer": name,
                "stage": stage_of(name),
                "block": block,
                "kind": "conv {}x{}".format(*module.kernel_size) if convolution else "linear",
                "channels": shape[1],
                "size": shape[2] if convolution else 1,
                "stride": module.stride[0] if convolution else 1,
                "parameters": sum(p.numel() for p in module.parameters()),
                "shortcut": _shortcut(blocks[block]) if block and module is blocks[block].conv2 else "",
            }
        )
    return pd.DataFrame(rows)


def _shortcut(block: BasicBlock) -> str:
    if not block.residual:
        return ""
    if block.downsample is None:
        return "identity"
    return "A" if isinstance(block.downsample, OptionA) else "B"


@styled
def plot_architecture(models: dict[str, nn.Module]) -> Figure:
    """Draw networks one above the other: a box per weighted layer, an arc per shortcut, on one horizontal scale.

    A box is as high as the layer's map, and the darker the more channels it has; behind the two layers of a block lies
    a grey panel. All of it is read from the networks by :func:`describe_layers`.

    Args:
        models: from architecture, such as ``"resnet56"``, to a :class:`resnet56.model.CifarNet`.
    """
    tables = {arch: describe_layers(model) for arch, model in models.items()}
    for table in tables.values():
        new_stage = table["stage"] != table["stage"].shift()
        new_block = (table["block"] != table["block"].shift()) & ~new_stage
        table["x"] = (1 + BLOCK_GAP * new_block + STAGE_GAP * new_stage).cumsum()
    depths = [len(table) for table in tables.values()]
    labelled = max(range(len(depths)), key=lambda row: (depths[row], row))  # the deepest: it has the space
    tops = [28 if (table["shortcut"] != "").any() else 18 for table in tables.values()]
    bottoms = [-32 if row == labelled else -18 for row in range(len(depths))]
    heights = [top - bottom for top, bottom in zip(tops, bottoms, strict=True)]
    figure, axes = plt.subplots(
        len(models),
        figsize=(WIDTH, 0.4 + sum(0.3 + PIXEL * height for height in heights)),
        squeeze=False,
        height_ratios=heights,
        layout="constrained",
    )
    left, right = STAGE_GAP, max(table["x"].max() for table in tables.values()) + 1
    margin = MARGIN * (right - left) / (WIDTH - 2 * MARGIN)
    for row, (axis, (arch, table)) in enumerate(zip(axes[:, 0], tables.items(), strict=True)):
        axis.set(xlim=(left - margin, right + margin), ylim=(bottoms[row], tops[row]))
        axis.set_axis_off()
        _draw_network(axis, table, margin)
        if row == labelled:
            _label_stages(axis, table)
        shortcuts = (table["shortcut"] != "").sum() or "no"
        axis.set_title(
            f"{display_name(arch)}: {len(table)} layers, {shortcuts} shortcuts, "
            f"{count_parameters(models[arch]):,} parameters",
            x=0.01,
        )
    caption(figure, "A box is a layer: as high as its map, darker with more channels. An arc is a shortcut.")
    return figure


def _draw_network(axis: Axes, table: pd.DataFrame, margin: float) -> None:
    """Draw the boxes, blocks, shortcuts and arrows of a network, with the main path at a height of zero."""
    colour = RESIDUAL if (table["shortcut"] != "").any() else PLAIN
    convolutions = table[table["kind"] != "linear"]
    start, end = table["x"].iloc[0] - 0.5, table["x"].iloc[-1] + 0.5
    arrow = {"arrowstyle": "-|>", "color": "black", "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
    axis.plot([start, end], [0, 0], color="black", linewidth=1, zorder=2)
    axis.annotate("", (start, 0), (start - 0.35 * margin, 0), arrowprops=arrow)
    axis.annotate("", (end + 0.35 * margin, 0), (end, 0), arrowprops=arrow)
    axis.text(start - 0.4 * margin, 0, "image\n3x32x32", ha="right", va="center", fontsize=8)
    axis.text(end + 0.4 * margin, 0, f"{table['channels'].iloc[-1]} logits", ha="left", va="center", fontsize=8)
    for layer in table.itertuples():
        height = max(layer.size, 3)
        face = _shade(colour, layer.channels / convolutions["channels"].max()) if layer.kind != "linear" else "#333333"
        axis.add_patch(
            Rectangle(
                (layer.x - BOX / 2, -height / 2),
                BOX,
                height,
                facecolor=face,
                edgecolor="none",
                zorder=3,
                gid=f"layer-{layer.layer}",
            )
        )
    for name, block in table[table["block"] != ""].groupby("block", sort=False):
        left, right, size = block["x"].iloc[0] - 0.5, block["x"].iloc[-1] + 0.5, block["size"].iloc[-1]
        axis.add_patch(Rectangle((left, -size / 2 - 1.5), right - left, size + 3, facecolor="#e6e6e6", zorder=1))
        if shortcut := block["shortcut"].iloc[-1]:
            _draw_shortcut(axis, name, shortcut, left - BLOCK_GAP / 2, right + BLOCK_GAP / 2, size / 2 + 1.5)


def _draw_shortcut(axis: Axes, block: str, shortcut: str, left: float, right: float, top: float) -> None:
    """Draw a shortcut: off the main path at ``left``, over the block, which is ``top`` high, and back at ``right``."""
    control = top + ARC * 4 / 3  # of a cubic curve that rises by ARC
    points = [(left, 0), (left, top), (left, control), (right, control), (right, top), (right, 0)]
    codes = [Path.MOVETO, Path.LINETO, Path.CURVE4, Path.CURVE4, Path.CURVE4, Path.LINETO]
    dashes = "-" if shortcut == "identity" else (0, (3, 1.5))
    axis.add_patch(
        PathPatch(
            Path(points, codes),
            facecolor="none",
            edgecolor="black",
            linewidth=0.7,
            linestyle=dashes,
            zorder=4,
            gid=f"shortcut-{block}",
        )
    )
    if shortcut in OPTIONS:
        axis.text(left, top + ARC + 1, OPTIONS[shortcut], ha="left", va="bottom", fontsize=8)


def _label_stages(axis: Axes, table: pd.DataFrame) -> None:
    """Write below a network its stages with the shape of their maps, and its first and last layer."""
    for name, stage in table.groupby("stage", sort=False):
        left, right = stage["x"].iloc[0] - 0.5, stage["x"].iloc[-1] + 0.5
        last = stage.iloc[-1]
        if name in STAGES:
            axis.plot([left, right], [-20, -20], color="#777777", linewidth=0.8)
            words = f"{name}\n{last['size']}x{last['size']}, {last['channels']} channels"
        else:
            words = last["layer"]
        axis.text((left + right) / 2, -21.5, words, ha="center", va="top", fontsize=8.5, linespacing=1.3)


def _shade(colour: str, share: float) -> tuple[float, ...]:
    """Mix a colour with white, the less of it the smaller ``share`` (0 to 1)."""
    return tuple(1 - share**0.7 * (1 - part) for part in to_rgb(colour))
