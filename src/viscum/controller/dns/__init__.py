"""Targets that are names: kept up by asking DNS and by listening (docs/names.md)."""
