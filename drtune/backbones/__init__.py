"""Encoders from timm, their weights, and the classifier every method trains."""
