"""A page in the browser: one image in, the result beside it, and a file of it out."""
