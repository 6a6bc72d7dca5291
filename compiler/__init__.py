"""Everything that happens before deployment, from model files to a bundle."""
