"""The gallery: rendered photo-like pictures and cartoons, the ways to spoil them, and how far each is spoilt."""
