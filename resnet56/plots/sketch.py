"""Figures of what is trained: the architecture, drawn from the modules themselves, and images."""

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from torch import nn

from ..data import DataSet
from ..layers import STAGES, basic_blocks, count_parameters, stage_of, weighted_layers
from ..model import BasicBlock, OptionA
from ..observe import responses, undisturbed
from .style import PLAIN, RESIDUAL, display_name, panels, styled, tint

LEGEND = "A box is a layer: as high as its map, darker with more channels. An arc is a shortcut."
WIDTH, MARGIN = 8.4, 0.85  # inches: of the figure; to the left and right of the boxes, for the arrows
PIXEL = 1 / 34  # inches that a pixel of a map is high
BOX, BLOCK_GAP, STAGE_GAP = 0.8, 0.6, 1.1  # in places; a layer takes one place
ARC = 8  # how far an arc rises above its block, in pixels of a map
ARC_PATH = [Path.MOVETO, Path.LINETO, *3 * [Path.CURVE4], Path.LINETO]
ARROW = dict(color="black", linewidth=1, shrinkA=0, shrinkB=0)
OPTIONS = {"identity": "", "A": "option A", "B": "option B: 1x1 projection"}


@torch.no_grad()
def describe_layers(model: nn.Module) -> pd.DataFrame:
    """List a network's weighted layers, their shapes read from a forward pass of one blank 3x32x32 image.

    Returns a row per layer of :func:`resnet56.layers.weighted_layers`, with ``depth`` (1 for the first), ``layer``
    (name), ``stage``, ``block`` (such as ``"layer1.0"``, ``""`` outside the blocks), ``kind`` (``"conv 3x3"`` or
    ``"linear"``), ``channels`` (of the output), ``size`` (side of the output's map in pixels, 1 for the linear layer),
    ``stride``, ``parameters`` (of the layer's own weight and bias) and ``shortcut``: at the last layer of a residual
    block ``"identity"``, ``"A"`` or ``"B"`` (He et al. 2015, section 3.3), ``""`` at all other layers.

    Raises:
        InputError: if it is no network of :func:`resnet56.model.build_model`.
    """
    shortcuts = {f"{name}.conv2": _shortcut(block) for name, block in basic_blocks(model).items()}
    with undisturbed(model, training=False), responses(model, lambda response: response.shape) as shapes:
        model(next(model.parameters()).new_zeros(1, 3, 32, 32))
    rows = []
    for depth, (name, module) in enumerate(weighted_layers(model), start=1):
        _, channels, size, *_ = *shapes[name][-1], 1
        kind, stride = "linear", 1
        if isinstance(module, nn.Conv2d):
            kind, stride = "conv {}x{}".format(*module.kernel_size), module.stride[0]
        where = (depth, name, stage_of(name), name.rpartition(".")[0])
        parameters = sum(parameter.numel() for parameter in module.parameters())
        rows.append((*where, kind, channels, size, stride, parameters, shortcuts.get(name, "")))
    columns = "depth layer stage block kind channels size stride parameters shortcut"
    return pd.DataFrame(rows, columns=columns.split())


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
    """
    tables = {arch: describe_layers(model) for arch, model in models.items()}
    tables = dict(sorted(tables.items(), key=lambda pair: len(pair[1])))  # the deepest is last: it has space for words
    for table in tables.values():
        new_stage = table["stage"] != table["stage"].shift()
        new_block = (table["block"] != table["block"].shift()) & ~new_stage
        table["x"] = (1 + BLOCK_GAP * new_block + STAGE_GAP * new_stage).cumsum()
    counts = [(table["shortcut"] != "").sum() for table in tables.values()]
    tops, bottoms = [28 if count else 18 for count in counts], [*(len(tables) - 1) * [-18], -32]
    heights = [top - bottom for top, bottom in zip(tops, bottoms, strict=True)]
    height = 0.4 + sum(0.3 + PIXEL * height for height in heights)
    figure, axes = panels(1, height, LEGEND, WIDTH, len(models), height_ratios=heights)
    left, right = STAGE_GAP, max(table["x"].max() for table in tables.values()) + 1
    margin = MARGIN * (right - left) / (WIDTH - 2 * MARGIN)
    for axis, (arch, table), count, *ylim in zip(axes, tables.items(), counts, bottoms, tops, strict=True):
        axis.set(xlim=(left - margin, right + margin), ylim=ylim)
        axis.set_axis_off()
        title = f"{display_name(arch)}: {len(table)} layers, {count or 'no'} shortcuts"
        axis.set_title(f"{title}, {count_parameters(models[arch]):,} parameters", x=0.01)
        _draw_network(axis, table, margin, RESIDUAL if count else PLAIN)
    for name, stage in table.groupby("stage", sort=False):
        left, right, last = stage["x"].iloc[0] - 0.5, stage["x"].iloc[-1] + 0.5, stage.iloc[-1]
        words = last["layer"]
        if name in STAGES:
            axis.plot([left, right], [-20, -20], color="#777777", linewidth=0.8)
            words = f"{name}\n{last['size']}x{last['size']}, {last['channels']} channels"
        axis.text((left + right) / 2, -21.5, words, ha="center", va="top", fontsize=8.5, linespacing=1.3)
    return figure


def _draw_network(axis: Axes, table: pd.DataFrame, margin: float, colour: str) -> None:
    """Draw the arrows, boxes, blocks and shortcuts of a network, with the main path at a height of zero."""
    start, end = table["x"].iloc[0] - 0.5, table["x"].iloc[-1] + 0.5
    axis.plot([start, end], [0, 0], color="black", linewidth=1, zorder=2)
    logits = f"{table['channels'].iloc[-1]} logits"
    for text, tip, gap, head in (("image\n3x32x32", start, -margin, "-|>"), (logits, end, margin, "<|-")):
        style = dict(ha="right" if gap < 0 else "left", va="center", fontsize=8)
        axis.annotate(text, (tip, 0), (tip + 0.4 * gap, 0), arrowprops=dict(arrowstyle=head, **ARROW), **style)
    tints = [tint(colour, share**0.7) for share in table["channels"][:-1] / table["channels"][:-1].max()]
    heights = table["size"].clip(lower=3)
    boxes = axis.bar(table["x"], heights, BOX, -heights / 2, color=[*tints, "#333333"], zorder=3)
    for box, name in zip(boxes, table["layer"], strict=True):
        box.set_gid(f"layer-{name}")
    for name, block in table[table["block"] != ""].groupby("block", sort=False):
        left, right, top = block["x"].iloc[0] - 0.5, block["x"].iloc[-1] + 0.5, block["size"].iloc[-1] / 2 + 1.5
        axis.bar((left + right) / 2, 2 * top, right - left, -top, color="#e6e6e6", zorder=1)
        if shortcut := block["shortcut"].iloc[-1]:
            left, right, control = left - BLOCK_GAP / 2, right + BLOCK_GAP / 2, top + ARC * 4 / 3  # rises by ARC
            points = [(left, 0), (left, top), (left, control), (right, control), (right, top), (right, 0)]
            style = dict(fill=False, linewidth=0.7, zorder=4, gid=f"shortcut-{name}")
            dashes = "-" if shortcut == "identity" else (0, (3, 1.5))
            axis.add_patch(PathPatch(Path(points, ARC_PATH), linestyle=dashes, **style))
            axis.text(left, top + ARC + 1, OPTIONS[shortcut], ha="left", va="bottom", fontsize=8)


@styled
def plot_images(data: DataSet, rows: int = 4) -> Figure:
    """Draw a grid of training images: a column per class, the first ``rows`` images of each."""
    count = len(data.classes)
    figure, axes = panels(count, 0.84 * rows + 0.6, data.title, rows=rows)
    for label, name in enumerate(data.classes):
        axes[label].set_title(name, loc="center", fontsize=9.5)
        members = (data.train.labels == label).nonzero().flatten()[:rows]
        for axis, index in zip(axes[label::count], members, strict=False):  # a small class leaves places empty
            axis.imshow(data.train.pixels[index].permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
    for axis in axes:
        axis.set_axis_off()
    return figure


@styled
def plot_views(images: np.ndarray, titles: list[str], conditions: str) -> Figure:
    """Draw images in a row, each with its title; ``images`` is float ``(N, 3, H, W)`` from 0 to 1."""
    figure, axes = panels(len(images), 2, conditions, 1.4 * len(images))
    for axis, image, title in zip(axes, images, titles, strict=True):
        axis.imshow(np.clip(image.transpose(1, 2, 0), 0, 1), interpolation="nearest")
        axis.set_title(title, loc="center", fontsize=8.5)
        axis.set_axis_off()
    return figure
