"""The command line: options to values, values to tables or JSON."""
