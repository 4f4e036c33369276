"""A simulated farm: jobs of the past or of a made-up day, nodes that boot and age, and policies to compare."""
