"""Finding weights and reading them safely."""
