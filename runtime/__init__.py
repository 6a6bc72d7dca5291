"""Loads and runs a bundle; needs neither torch nor onnx."""
