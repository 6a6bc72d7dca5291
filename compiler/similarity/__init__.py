"""Similarity of models' layers: measured, compared, cached, drawn."""
