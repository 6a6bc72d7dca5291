"""Facts about a graph that need no frames: channels, activation functions, bounds, cost."""
