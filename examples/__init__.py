"""Programs that show agog at work."""
