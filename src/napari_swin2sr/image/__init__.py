"""What an image is: axes, physical meaning, value ranges, missing pixels; NumPy only."""
