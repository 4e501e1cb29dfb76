"""Live layers: super-resolved pixels where the viewer looks."""
