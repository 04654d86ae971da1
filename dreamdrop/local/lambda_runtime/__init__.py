"""Lambda execution environments without docker: one process each, driven by AWS's own runtime client."""
