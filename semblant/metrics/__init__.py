"""Measures of likeness and faithfulness, one file each."""
