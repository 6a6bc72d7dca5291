"""What parses or opens a model runs in a process of its own, under limits of memory and time."""
