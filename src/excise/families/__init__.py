"""Model families: their adapters, and how a model is found and loaded. Importing this package imports no torch."""

from excise.families.built_in import BUILT_IN, WEIGHTS
from excise.families.load import family_of, load, outlined
from excise.families.locate import FAMILIES, check_model, family_name_of

__all__ = ["BUILT_IN", "FAMILIES", "WEIGHTS", "check_model", "family_name_of", "family_of", "load", "outlined"]
