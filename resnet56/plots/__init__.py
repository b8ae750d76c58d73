"""Figures. Each function makes one from recorded runs, measurements or images, and returns it.

Tables and curves are given by architecture, such as ``"plain56"``. ``conditions`` are what was measured on what, a line
that is written above the figure. A ``quantity`` is a column of the runs' ``gradients``. What cannot be drawn, because
it is empty, was not recorded or cannot share an axis, is refused by a :class:`resnet56.errors.InputError` of one line.
"""

# ruff: noqa: F401
from .differences import (
    plot_branch_variances,
    plot_initial_gradients,
    plot_lesions,
    plot_loss_contours,
    plot_loss_lines,
    plot_path_lengths,
    plot_responses,
    plot_shattering,
)
from .heatmaps import plot_gradient_flow, plot_gradient_flow_by_epoch, plot_gradient_heatmaps
from .interactive import interactive_curves, interactive_depths, interactive_heatmaps
from .sketch import describe_layers, plot_architecture, plot_images, plot_views
from .style import colour, display_name
from .training import (
    plot_comparison,
    plot_degradation,
    plot_depth_sweep,
    plot_lr_schedule,
    plot_results,
    plot_speeds,
    plot_training_curves,
)
