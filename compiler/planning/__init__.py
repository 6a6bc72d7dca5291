"""Which rewrites to make: sites, plans, the search, fidelity."""
