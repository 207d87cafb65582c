"""Batched image operations: pure functions of images, a physical argument per image, and a generator."""
