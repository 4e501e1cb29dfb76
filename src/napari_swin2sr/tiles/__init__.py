"""Where tiles lie in an image, and what happens in one; no PyTorch."""
