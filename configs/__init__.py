"""The shipped configurations; `experiments.config` finds them by name."""
