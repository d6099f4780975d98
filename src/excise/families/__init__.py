"""Model families: the adapters, and how a model is found and loaded."""

from excise.families.base import Family, Projection, TextStates
from excise.families.built_in import BUILT_IN, WEIGHTS
from excise.families.load import FAMILIES, family_of, load

__all__ = ["BUILT_IN", "FAMILIES", "WEIGHTS", "Family", "Projection", "TextStates", "family_of", "load"]
