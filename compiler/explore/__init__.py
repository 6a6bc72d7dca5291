"""The trade-off of a set of models: a front of plans, as a table, JSON, pictures and a page."""
