"""Figures. Each function makes one from recorded runs, measurements or images, and returns it."""

from .contours import plot_loss_contours, plot_loss_lines
from .differences import (
    plot_branch_variances,
    plot_initial_gradients,
    plot_lesions,
    plot_path_lengths,
    plot_responses,
    plot_shattering,
)
from .heatmaps import plot_gradient_flow, plot_gradient_flow_by_epoch, plot_gradient_heatmaps
from .images import plot_images, plot_views
from .interactive import interactive_curves, interactive_depths, interactive_heatmaps
from .sketch import describe_layers, plot_architecture
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

__all__ = [
    "colour",
    "describe_layers",
    "display_name",
    "interactive_curves",
    "interactive_depths",
    "interactive_heatmaps",
    "plot_architecture",
    "plot_branch_variances",
    "plot_comparison",
    "plot_degradation",
    "plot_depth_sweep",
    "plot_gradient_flow",
    "plot_gradient_flow_by_epoch",
    "plot_gradient_heatmaps",
    "plot_images",
    "plot_initial_gradients",
    "plot_lesions",
    "plot_loss_contours",
    "plot_loss_lines",
    "plot_lr_schedule",
    "plot_path_lengths",
    "plot_responses",
    "plot_results",
    "plot_shattering",
    "plot_speeds",
    "plot_training_curves",
    "plot_views",
]
