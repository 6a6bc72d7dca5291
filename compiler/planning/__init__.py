"""Which rewrites to make: the search over sites of all kinds, and the plan."""
