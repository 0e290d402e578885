"""Where preference pairs come from: the world, sources, records, negatives, audit. Needs no torch."""
