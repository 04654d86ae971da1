"""Pictures drawn by code with Pillow: everything is measured in units of 1/256 of the picture's side."""
