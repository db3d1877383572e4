"""Arrays of cases of the compact network."""

from .srresnet import RULES

__all__ = ["RULES"]
