"""Super-resolution of images too large for memory, with Swin2SR."""
