"""The same steps, faster: the engine, several networks at once, several processes, and the benchmark."""

from .engine import Engine
from .together import fit_together

__all__ = ["Engine", "fit_together"]
