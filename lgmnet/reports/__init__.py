"""One page that shows what networks do: scores, pictures, stages, Φ, robustness."""
