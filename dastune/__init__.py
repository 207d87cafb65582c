"""dastune: augmentation policies searched side by side, under one metered device-time budget."""
