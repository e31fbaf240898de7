"""From the frames of a movie to one micrograph: alignment of whole frames, local motion, sums."""
