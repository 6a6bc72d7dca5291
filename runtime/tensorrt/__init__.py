"""Engines of TensorRT: built, checked, loaded, measured."""
