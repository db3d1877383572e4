"""Arrays of cases of RRDBNet."""

from .srresnet import RULES

__all__ = ["RULES"]
