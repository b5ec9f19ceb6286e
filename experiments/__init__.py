"""The loop: configuration, zoo, stages, report and command line. Importing this package imports no model code."""
