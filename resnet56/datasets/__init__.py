"""Where images come from: :func:`load_data` and :func:`import_images`."""

from .importing import import_images
from .loading import NAMES, load_data, survey_data

__all__ = ["NAMES", "import_images", "load_data", "survey_data"]
