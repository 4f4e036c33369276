"""Batch systems: what waits, what runs, on which hosts, and by whose share."""
