"""Everything that happens before deployment: frontends, analysis, planning, backends, CLI."""
