"""Why a model says what it says of one record. docs/explanations.md says how to read it."""

from fedmodels.evaluation.explanations.pictures import Picture, pictures

__all__ = ["Picture", "pictures"]
