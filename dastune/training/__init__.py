"""Training networks on augmented images, step by step, resumable at every step."""
