"""Figures of images (appendix "The data")."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ..data import DataSet
from .style import caption, panels, styled


@styled
def plot_images(data: DataSet, rows: int = 4) -> Figure:
    """Draw a grid of training images: a column per class, the first ``rows`` images of each."""
    size = (8.4, 0.84 * rows + 0.6)
    figure, axes = plt.subplots(rows, len(data.classes), figsize=size, squeeze=False, layout="constrained")
    for label, column in enumerate(axes.T):
        members = (data.train.labels == label).nonzero().flatten()[:rows]
        for axis, index in zip(column, members, strict=False):  # a small class leaves places empty
            axis.imshow(data.train.pixels[index].permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
        for axis in column:
            axis.set_axis_off()
        column[0].set_title(data.classes[label], loc="center", fontsize=9.5)
    caption(figure, data.title)
    return figure


@styled
def plot_views(images: np.ndarray, titles: list[str], conditions: str) -> Figure:
    """Draw images in a row, each with its title; ``images`` is float ``(N, 3, H, W)`` from 0 to 1."""
    figure, axes = panels(len(images), 2, 1.4 * len(images))
    for axis, image, title in zip(axes, images, titles, strict=True):
        axis.imshow(np.clip(image.transpose(1, 2, 0), 0, 1), interpolation="nearest")
        axis.set_title(title, loc="center", fontsize=8.5)
        axis.set_axis_off()
    caption(figure, conditions)
    return figure
