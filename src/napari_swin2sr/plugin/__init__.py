"""The napari plugin: widget, live layers, placement, samples and writers."""
