"""What the integer program says of a network: its costs, exclusions and errors, as linear rows."""
