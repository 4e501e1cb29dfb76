"""Training and measuring models: data, degradation, loop, metrics, model card.

Nothing here is needed to upscale an image; `napari-swin2sr train` and
`napari-swin2sr evaluate` are the way in.
"""
