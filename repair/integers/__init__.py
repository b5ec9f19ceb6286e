"""Better integers: learned scales, learned rounding and corrected biases of int8 models that stay int8."""
