"""What an image is: axes, units, value ranges, missing pixels; NumPy only."""
