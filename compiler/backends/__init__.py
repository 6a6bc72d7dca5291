"""Where a program goes: the bundle on disk."""
