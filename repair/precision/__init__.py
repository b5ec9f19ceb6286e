"""More bits where they matter: which tensors, at what cost."""
