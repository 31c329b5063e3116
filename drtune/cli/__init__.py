"""The `drtune` command."""
