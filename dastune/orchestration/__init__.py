"""A study as a whole: the grid of searches, the trial that runs one of them, Ray, progress, resume."""
