"""Where images come from: :func:`load_data` and :func:`import_images`."""

from .importing import import_images
from .loading import NAMES, available_data, load_data, survey_data

__all__ = ["NAMES", "available_data", "import_images", "load_data", "survey_data"]
