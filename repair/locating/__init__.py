"""Which layers, channels and weights answer for the deviations?"""
