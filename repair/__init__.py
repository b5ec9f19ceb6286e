"""Repair of compressed models that leaves them compressed."""
