"""Domain-wise repair: properties in VNN-LIB files, their counterexamples, repairs, and how far these are believed."""
