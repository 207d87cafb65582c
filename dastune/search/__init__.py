"""Searches: each turns a search space and a budget into a policy. None knows Ray, MLflow or a clock."""
