"""Readers that turn model files into a program."""
