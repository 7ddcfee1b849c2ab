"""Experiments: methods x subjects x prompts x metrics, their results and reports."""
