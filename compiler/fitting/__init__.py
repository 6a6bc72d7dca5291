"""Closed-form fits: new weights for linear operators, from what frames say."""
