"""Policies in the forms of other libraries, one module each: exact to a stated tolerance, or refused by name."""
