"""Repairs that search for weights in place of following a gradient: Arachne, NeuRecover, CARE, BIRDNN."""
