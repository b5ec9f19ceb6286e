"""report.html: one page with everything in it, made from the files of a run folder. Imports no model code."""
