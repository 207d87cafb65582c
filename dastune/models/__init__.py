"""Networks that searches and final trainings train."""
