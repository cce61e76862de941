"""Rows of the performance benchmark: what is compared, and by which protocol."""
