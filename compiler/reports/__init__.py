"""What the user reads at the end of a run."""
