"""Long runs: resumable, cancellable, shared between machines."""
