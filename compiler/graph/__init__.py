"""The program: every model in one graph with one weight table."""
