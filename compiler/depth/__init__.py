"""How a model's depth trades against its fidelity."""
