"""What a model is, for the record."""
