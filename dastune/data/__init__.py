"""Data sets, in memory as uint8, and the three parts that every study cuts them into."""
