"""Learned things of other programs: one module for each form of file, all of them from tensors to tensors."""
