"""Policies, cells and standard augmentation as transforms of image batches on a device."""
