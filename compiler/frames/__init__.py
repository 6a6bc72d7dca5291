"""The frames that a compilation looks at: read, checked, prepared, split."""
