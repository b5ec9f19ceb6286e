"""ONNX files: their graphs as differentiable modules, written back in place, and given more bits."""
