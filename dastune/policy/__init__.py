"""What a search finds (a Policy) and what it searches in (a SearchSpace): plain data, no torch."""
