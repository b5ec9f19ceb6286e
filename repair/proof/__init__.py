"""When is a repair believed? Figures with intervals, the probe set, and the verdict."""
