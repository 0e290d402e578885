"""What loops share that learn from their own judged samples, be they pictures (generators/) or captions (caption/)."""
