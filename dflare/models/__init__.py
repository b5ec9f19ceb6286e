"""Models as black boxes: their formats, what they are shown and how their answers are read."""
